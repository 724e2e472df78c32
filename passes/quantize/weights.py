"""Weights to codes: scales for each layer, and a rounding that may look at what the layer reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from secateur.calib.solvers.block_scales import nvfp4_scales, power_scales
from secateur.calib.solvers.grids import codes, real, scales_by_error, scales_by_range
from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.ir.graph import Graph
from secateur.ir.rules.weights import strangers
from secateur.ir.spill import spilled
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Evidence, Streams, gather_slabs, merged
from secateur.passes.layers.matrix import as_matrices, bias_of, from_matrices, matrices_of
from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.layers.stages import walk
from secateur.passes.quantize.formats import Format
from secateur.passes.quantize.layers import Layer
from secateur.passes.quantize.rounding import DATA_FREE, ROUNDINGS, Scaled, Unrounded

Clip: TypeAlias = Literal["max", "mse"]
"""How the range of a weight is chosen: nothing is clipped, or as much as makes the squared error smallest."""

_ROWS = 64
_ZEROS = 0.2
"""From this share of zeros on, a weight is taken for sparse, and its zeros stay."""


@dataclass(frozen=True)
class Methods:
    """See the options of `quantize`."""

    rounding: str
    clip: Clip
    damping: float
    positions: int


@dataclass(frozen=True)
class Scales:
    """What codes of a weight [outputs, columns] are multiplied by.

    Attributes:
        scale: [outputs, n] as numbers.
        stored: the same as it is written: [outputs, n] in the type of the model or in eight bits.
        tensor: what multiplies all that is stored; None where nothing does.
    """

    scale: NDArray[Any]
    stored: NDArray[Any]
    tensor: np.float32 | None = None


@dataclass(frozen=True)
class Coded:
    """A weight in few bits, shaped as it is stored.

    Attributes:
        codes: in the shape of the weight.
        scale: [channels]; () for one of the whole weight; or in blocks, in the shape of the weight but for the axis of
            the input channels.
        tensor: what multiplies all scales; None where nothing does.
        sqnr: energy of the weight over that of what rounding changed, in decibels; None where it changed nothing.
        error, nearest: squared error of what the layer gives over its variance, on data that was held out, and the
            same had all been rounded to the nearest; None where no data was looked at.
    """

    codes: NDArray[Any]
    scale: NDArray[Any]
    tensor: np.float32 | None
    sqnr: float | None
    error: float | None = None
    nearest: float | None = None


def scales_of(layer: Layer, matrix: NDArray[Any], energies: NDArray[Any] | None, clip: Clip) -> Scales:
    """Scales for one matrix [outputs, columns] of a layer; by the energies [columns] of its inputs where known."""
    dtype = layer.use.tensor.dtype.numpy
    if not layer.whole:
        return grid_scales(layer.format, layer.block, matrix, Fit(clip, energies, dtype))
    each = None if energies is None else np.tile(energies, len(matrix))
    found = grid_scales(layer.format, layer.block, matrix.reshape(1, -1), Fit(clip, each, dtype))
    rows = len(matrix)
    return Scales(np.repeat(found.scale, rows, axis=0), np.repeat(found.stored, rows, axis=0), found.tensor)


@dataclass(frozen=True)
class Fit:
    """How scales are fitted to a matrix [outputs, columns].

    Attributes:
        clip: of its range.
        energies: [columns] of what is read; None for all the same.
        dtype: of scales, where the format has no type of its own for them.
    """

    clip: Clip = "max"
    energies: NDArray[Any] | None = None
    dtype: DTypeLike = np.float32


def grid_scales(wanted: Format, block: int | None, matrix: NDArray[Any], fit: Fit | None = None) -> Scales:
    """Scales for a matrix [outputs, columns] in a format, one for each row or for each block of its columns."""
    fit = fit or Fit()
    search = fit.clip == "mse"
    match wanted.levels:
        case "double":
            two = nvfp4_scales(matrix, block or 0, fit.energies, search)
            return Scales(two.scale, two.block, two.tensor)
        case "power":
            powers = power_scales(matrix, wanted.grid, block or 0, fit.energies, search)
            return Scales(powers.astype(np.float32), powers)
    if search:
        found = scales_by_error(matrix, wanted.grid, block, fit.energies, fit.dtype)
    else:
        found = scales_by_range(matrix, wanted.grid, block, fit.dtype)
    return Scales(found, found)


class Coder:
    """Quantizes the weights of layers, one at a time, or step by step through the model on calibration data."""

    def __init__(self, graph: Graph, methods: Methods, context: Context) -> None:
        self.graph, self.methods, self.context = graph, methods, context
        self.dense = graph

    def run(self, layers: Sequence[Layer]) -> Mapping[Layer, Coded]:
        """What each weight becomes. With data, the graph has weights on the grid afterwards, as floats."""
        blind = [layer for layer in layers if self._is_blind(layer)]
        found = {layer: self._alone(layer) for layer in blind}
        steps = _steps([layer for layer in layers if layer not in found])
        if not steps:
            return found
        self.dense = self._before()
        ops = [[use.op for layer in step for use in layer.uses] for step in steps]

        def visit(which: int, streams: Streams) -> None:
            self.context.progress("quantizing weights", len(found), len(layers))
            found.update(self._step(steps[which], streams))

        walk(self.graph, self.dense, ops, self.context, visit, is_steady=True)
        self.context.progress("quantizing weights", len(layers), len(layers))
        return found

    def _is_blind(self, layer: Layer) -> bool:
        """Whether data says nothing of a layer: none is asked, or what it reads is no value of the graph."""
        asked = self.methods.rounding not in DATA_FREE or (
            self.methods.clip == "mse" and self.context.source is not None
        )
        return not asked or any(use.targets is None or use.op.attribute("alpha", 1.0) != 1 for use in layer.uses)

    def _before(self) -> Graph:
        """What layers should give: the model before its first lossy pass, where its layers are still the same.

        Where layers were fitted together since, each gives what it should, and not what it gave.
        """
        original, present = self.context.reference, self.graph
        if original is None:
            return present.clone()
        shapes = {value.name: value.const.shape for value in original.constants() if value.const is not None}
        made = {value.name for op in original.ops() for value in op.outputs if value is not None}
        same = all(
            shapes.get(value.name) == value.const.shape
            for value in present.constants()
            if value.const is not None and value.const.size > 1
        )
        same &= all(value.name in made for op in present.ops() for value in op.outputs if value is not None)
        return original.clone() if same else present.clone()

    @property
    def _blind(self) -> str:
        """The rounding where data says nothing."""
        return self.methods.rounding if self.methods.rounding in DATA_FREE else "nearest"

    def _alone(self, layer: Layer) -> Coded:
        """By the weight alone."""
        matrices = as_matrices(layer.use, layer.use.tensor.numpy())
        joined = matrices.reshape(-1, matrices.shape[-1])
        if self._blind == "nearest":  # which codes are anyway
            return _coded(layer, joined, scales_of(layer, joined, None, self.methods.clip))
        rounded = self._rounded(layer, self._blind, Unrounded(joined, taps=_taps(layer)), None)
        return _coded(layer, rounded.matrix, rounded.scales)

    def _step(self, step: Sequence[Layer], streams: Streams) -> dict[Layer, Coded]:
        uses = [use for layer in step for use in layer.uses]
        slabs = dict(zip(map(id, uses), gather_slabs(streams, uses, self.context, self.methods.positions), strict=True))
        found = {}
        for layer in step:
            seen = [merged(some) for some in zip(*(slabs[id(use)] for use in layer.uses), strict=True)]
            found[layer] = self._judged(layer, seen)
        return found

    def _judged(self, layer: Layer, seen: Sequence[Evidence]) -> Coded:
        """By what the layer reads, matrix by matrix."""
        before = self._matrices_before(layer)
        found = [
            self._best(layer, self._problem(layer, evidence, slab), before[slab]) for slab, evidence in enumerate(seen)
        ]
        scales = Scales(
            np.concatenate([one.scales.scale for one in found]),
            np.concatenate([one.scales.stored for one in found]),
            found[0].scales.tensor,
        )
        errors = (float(np.mean([one.error for one in found])), float(np.mean([one.nearest for one in found])))
        coded = _coded(layer, np.concatenate([one.matrix for one in found]), scales, errors)
        self._write(layer, coded, scales)
        return coded

    def _best(self, layer: Layer, problem: Problem, before: Array) -> _Rounded:
        """Of the rounding of what the layer should be, and of the nearest codes of what it is, the better."""
        energies = problem.energies if problem.energies.any() else None
        present = problem.weight
        plain = self._rounded(layer, "nearest", Unrounded(present), energies)
        candidates = [plain]
        if self._blind != "nearest":
            candidates.insert(0, self._rounded(layer, self._blind, Unrounded(present, taps=_taps(layer)), energies))
        if energies is not None and self.methods.rounding not in DATA_FREE:
            mask, gram = _mask(present), problem.gram
            target = replace(problem, weight=before).target
            if mask is not None:
                target = masked_least_squares(gram, target, mask, start=present, ridge=problem.damping)
            wanted = Unrounded(target, mask, gram, problem.damping)
            candidates.insert(0, self._rounded(layer, self.methods.rounding, wanted, energies))
        which, errors = problem.judge([(one.matrix, None) for one in candidates])
        return replace(candidates[which], error=errors[which], nearest=errors[-1])

    def _rounded(self, layer: Layer, how: str, wanted: Unrounded, energies: Array | None) -> _Rounded:
        scales = scales_of(layer, wanted.weight, energies, self.methods.clip)
        grid = Scaled(layer.format.grid, scales.scale.astype(np.float64), layer.block)
        return _Rounded(ROUNDINGS[how](wanted, grid), scales)

    def _matrices_before(self, layer: Layer) -> Array:
        """The weight as it was before any lossy pass, where that is known."""
        original = self.dense.get(layer.weight.name)
        if original is None or original.const is None or original.const.shape != layer.use.tensor.shape:
            return matrices_of(layer.use)
        return as_matrices(layer.use, original.const.numpy().astype(np.float64))

    def _problem(self, layer: Layer, evidence: Evidence, slab: int) -> Problem:
        use = layer.use
        matrices = matrices_of(use)
        bias = bias_of(use, self.graph)
        return Problem(
            name=layer.weight.name,
            weight=matrices[slab],
            bias=None,
            order=np.arange(matrices.shape[-1]),
            evidence=evidence,
            channels=use.inputs // use.groups,
            random=self.context.random(layer.weight.name),
            damping=self.methods.damping,
            constant=None if bias is None else bias.reshape(len(matrices), -1)[slab],
        )

    def _write(self, layer: Layer, coded: Coded, scales: Scales) -> None:
        """Puts the rounded numbers into the graph, so that later layers are fitted to what comes of them."""
        if strangers(self.graph, layer.weight, layer.uses):
            return
        matrices = as_matrices(layer.use, coded.codes)
        numbers = real(matrices.reshape(-1, matrices.shape[-1]), scales.scale.astype(np.float32), layer.block)
        array = from_matrices(layer.use, numbers.reshape(matrices.shape)).astype(layer.use.tensor.dtype.numpy)
        layer.weight.set_const(spilled(Tensor(array, layer.use.tensor.dtype)))


def _steps(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Layers that are fitted to one look at the data: matrix products of one value. Others are by themselves."""
    steps: dict[object, list[Layer]] = {}
    for layer in layers:
        alone = len(layer.uses) > 1 or layer.use.taps
        steps.setdefault(layer if alone else layer.use.data, []).append(layer)
    return list(steps.values())


@dataclass(frozen=True)
class _Rounded:
    """One matrix [outputs, columns] on its grid, and how far it is off on held-out data."""

    matrix: Array
    scales: Scales
    error: float = 0.0
    nearest: float = 0.0


def _taps(layer: Layer) -> int:
    return math.prod(layer.use.tensor.shape[axis] for axis in layer.use.taps)


def _mask(weight: NDArray[Any]) -> Mask | None:
    """Where a sparse weight is not zero."""
    stays = weight != 0
    return stays if stays.size and 1 - stays.mean() >= _ZEROS else None


def _coded(
    layer: Layer, matrix: NDArray[Any], scales: Scales, errors: tuple[float | None, float | None] = (None, None)
) -> Coded:
    """A matrix [outputs, columns] of all slabs as codes in the shape of the weight, with its scales."""
    use, shape = layer.use, layer.use.tensor.shape
    scale = scales.scale.astype(np.float32)
    found = codes(matrix, scale, layer.format.grid, layer.block)
    decibels = _decibels(as_matrices(use, use.tensor.numpy()).reshape(found.shape), real(found, scale, layer.block))
    written: NDArray[Any] = scales.stored.reshape(-1)
    if layer.whole:
        written = np.asarray(written[0])
    if layer.block is not None:
        blocks = tuple(scale.shape[1] if axis == use.contracted else size for axis, size in enumerate(shape))
        written = from_matrices(use, _slabs(use, scales.stored), blocks)
    return Coded(from_matrices(use, _slabs(use, found)), written, scales.tensor, decibels, *errors)


def _decibels(dense: NDArray[Any], numbers: NDArray[Any]) -> float | None:
    noise = energy = 0.0
    for start in range(0, len(dense), _ROWS):  # weights may lie the other way round: a piece of them fits the cache
        exact = np.ascontiguousarray(dense[start : start + _ROWS], np.float32)
        error = exact - numbers[start : start + _ROWS]
        noise, energy = noise + float(np.vdot(error, error)), energy + float(np.vdot(exact, exact))
    return 10 * math.log10(energy / noise) if noise and energy else None


def _slabs(use: Any, rows: NDArray[Any]) -> NDArray[Any]:
    return rows.reshape(use.slabs, -1, rows.shape[-1])
