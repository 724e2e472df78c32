"""What each way to spend bits on a layer costs its weights and its outputs, beside each other, and a verdict.

The comparison of Kuzmin et al. 2023, "Pruning vs Quantization: Which is Better?", section 4, on one layer: `spending`
has its formulas. Sparsity anywhere saves bytes but no time in TensorRT; what is as fast is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.solvers.block_scales import NVFP4_BLOCK, nvfp4_scales
from secateur.calib.solvers.column_sweep import column_sweep, factor
from secateur.calib.solvers.column_sweep import keep_share as sweep_share
from secateur.calib.solvers.descent import Descent, descended
from secateur.calib.solvers.element_masks import keep_of, keep_share
from secateur.calib.solvers.gptq import gptq, row_errors
from secateur.calib.solvers.grids import FP4, INT4, INT8, Grid, nearest, scales_by_error, scales_by_range
from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.calib.solvers.obr import Compensation, obr
from secateur.calib.solvers.spending import (
    FULL_BITS,
    decibels,
    kurtosis,
    least_pruning,
    least_rounding,
    same_size,
    smallest_energy,
    sqnr,
    stored_bits,
)

Floats: TypeAlias = npt.NDArray[Any]
Mask: TypeAlias = npt.NDArray[np.bool_]

Kind: TypeAlias = Literal["quantize", "prune", "both"]
Verdict: TypeAlias = Literal["quantize", "prune", "tie"]

TIE = 0.5
"""Decibels by which one has to be ahead for a verdict."""

ROWS = 64
"""Of a layer, that are looked at."""

INT4_BLOCK = 128
"""Columns that share a scale of INT4 weights."""


@dataclass(frozen=True)
class Way:
    """One way to spend bits on a layer.

    Attributes:
        name: such as "int8 nearest", "0.50 magnitude" (the share of zeros), "2:4 least squares".
        kind: fewer bits, fewer weights, or both.
        bits: a weight, as stored: masks and scales counted.
        nominal: a weight, as the paper counts; the same for the two of a comparison.
        fast: whether TensorRT is faster for it.
        weights: signal to noise of the weights, decibels.
        outputs: that of the outputs on the Gram; of the weights where there is no Gram.
        most: no weight of this kind has more, where a bound is known: on the same grid, or with as many zeros a row.
    """

    name: str
    kind: Kind
    bits: float
    nominal: float
    fast: bool
    weights: float = -np.inf
    outputs: float = -np.inf
    most: float = np.inf


@dataclass(frozen=True)
class Advice:
    """What a layer may become.

    Attributes:
        kurtosis: excess, of its weights: where it is large, pruning does better than elsewhere.
        ways: all that were tried.
        verdicts: for each number of bits, by size as the paper counts: which kind leaves the better outputs.
        stored: the same with masks counted.
    """

    kurtosis: float
    ways: tuple[Way, ...]
    verdicts: dict[int, Verdict]
    stored: dict[int, Verdict]


def integer_grid(bits: int) -> Grid:
    """The symmetric integers of 2..8 bits: those of `grids` for 8 and 4.

    Raises:
        ValueError: there is no such grid.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"integer grids have 2..8 bits, got {bits}")
    known = {8: INT8, 4: INT4}
    largest = 2.0 ** (bits - 1) - 1
    return known.get(bits) or Grid(f"int{bits}", np.dtype(np.int8), largest, -largest - 1)


def advise_layer(weight: Floats, gram: Floats | None = None, bits: Sequence[int] = (8, 4), rows: int = ROWS) -> Advice:
    """Tries each way to spend bits on a layer and says which leaves more of it.

    Args:
        weight: W [r, c], groups of four neighbours along c as 2:4 takes them.
        gram: H [c, c] of its inputs; without, weights alone are compared, and nothing makes up for anything.
        bits: for which quantization and pruning are compared, 2..8 each.
        rows: so many at most are looked at, evenly spread: least squares of all of a large layer take minutes.

    Raises:
        ValueError: the shapes do not fit, bits are out of range, numbers are not finite, or no row is looked at.
    """
    if rows < 1:
        raise ValueError(f"at least one row is looked at, got {rows}")
    seen = weight[np.linspace(0, len(weight) - 1, min(rows, len(weight))).round().astype(np.intp)]
    layer = _Layer(seen.astype(np.float32), gram)
    ways: list[Way] = []
    verdicts: dict[int, Verdict] = {}
    stored: dict[int, Verdict] = {}
    for count in bits:
        quantized = list(layer.quantized(count))
        nominal = list(layer.pruned(same_size(count), count))
        counted = list(layer.pruned(same_size(count, stored=True), count))
        ways += [*quantized, *nominal, *counted]
        verdicts[count], stored[count] = _verdict(quantized, nominal), _verdict(quantized, counted)
    ways += layer.deployed()
    return Advice(kurtosis(weight), tuple(ways), verdicts, stored)


def _verdict(quantized: Sequence[Way], pruned: Sequence[Way]) -> Verdict:
    ahead = max(way.outputs for way in quantized) - max(way.outputs for way in pruned)
    # Both may be without any error.
    if np.isnan(ahead) or abs(ahead) < TIE:
        return "tie"
    return "quantize" if ahead > 0 else "prune"


@dataclass(frozen=True)
class _Layer:
    """A weight [r, c] of float32 and the Gram of its inputs, if there is one."""

    weight: Floats
    gram: Floats | None

    def measured(self, way: Way, changed: Floats) -> Way:
        found = sqnr(self.weight, changed)
        return replace(way, weights=found, outputs=found if self.gram is None else self.outputs(changed))

    def outputs(self, changed: Floats) -> float:
        return sqnr(self.weight, changed, self.gram)

    def bounded(self, way: Way, least: Floats) -> Way:
        """With what no way of the kind exceeds, from the least errors [r] of rows."""
        signal = self.signal
        return replace(way, most=decibels(float(least.sum()) / signal) if signal > 0 else np.inf)

    @cached_property
    def signal(self) -> float:
        """Squares of all outputs, or of all weights."""
        if self.gram is None:
            return float(np.sum(np.square(self.weight, dtype=np.float64)))
        return float(row_errors(self.gram, self.weight, np.zeros_like(self.weight)).sum())

    @cached_property
    def smallest(self) -> float:
        return smallest_energy(self.gram)

    @property
    def energies(self) -> Floats | None:
        return None if self.gram is None else self.gram.diagonal()

    def quantized(self, bits: int) -> Iterator[Way]:
        """To integers: the range, the clip of least squares, GPTQ, and descent from there."""
        grid, weight = integer_grid(bits), self.weight
        way = Way("", "quantize", float(bits), float(bits), fast=bits in (8, 4))
        for name, scale in (
            ("nearest", scales_by_range(weight, grid)),
            ("clip", scales_by_error(weight, grid, energies=self.energies)),
        ):
            bounded = self.bounded(way, least_rounding(self.smallest, weight, scale, grid))
            yield self.measured(replace(bounded, name=f"int{bits} {name}"), nearest(weight, scale, grid))
            if self.gram is not None and name == "clip":
                swept = gptq(weight, self.gram, scale, grid)
                yield self.measured(replace(bounded, name=f"int{bits} gptq"), swept)
                better = descended(weight, self.gram, (swept, scale), grid)
                yield self.measured(replace(bounded, name=f"int{bits} descent"), better)

    def pruned(self, share: float, bits: int) -> Iterator[Way]:
        """Zeros anywhere, a share that stays: by magnitude, by SparseGPT, and with least squares on either."""
        name = f"{1 - share:.2f}"
        way = Way("", "prune", stored_bits(FULL_BITS, share=share), float(bits), fast=False)
        mask = keep_share(np.abs(self.weight), share)
        yield self.measured(replace(way, name=f"{name} magnitude"), np.where(mask, self.weight, 0))
        if self.gram is not None:
            yield self.refitted(replace(way, name=f"{name} magnitude, least squares"), self.gram, mask)
            swept = column_sweep(self.weight, factor(self.gram, dtype=np.float32), sweep_share(share))
            yield self.measured(replace(way, name=f"{name} sparsegpt"), swept.weight)
            yield self.refitted(replace(way, name=f"{name} sparsegpt, least squares"), self.gram, swept.mask)

    def refitted(self, way: Way, gram: Floats, mask: Mask) -> Way:
        return self.measured(way, masked_least_squares(gram, self.weight, mask))

    def deployed(self) -> list[Way]:
        """What runs faster, for comparison by true size: 2:4, 2:4 with INT8, INT4 in blocks, NVFP4."""
        found = []
        columns = self.weight.shape[1]
        if columns % 4 == 0:
            sizes = 1 if self.energies is None else np.sqrt(self.energies)
            mask = keep_of(np.abs(self.weight) * sizes, 2, 4)
            way = Way("2:4", "prune", stored_bits(FULL_BITS, (2, 4)), stored_bits(FULL_BITS, (2, 4)), fast=True)
            way = self.bounded(way, least_pruning(self.smallest, self.weight, columns // 2))
            found.append(self.measured(way, np.where(mask, self.weight, 0)))
            if self.gram is not None:
                found.append(self.refitted(replace(way, name="2:4 least squares"), self.gram, mask))
            found.append(self.both(mask))
        for name, grid, block, scale, scale_bits in (
            ("int4 blocks", INT4, INT4_BLOCK, scales_by_error(self.weight, INT4, INT4_BLOCK, self.energies), 16),
            ("nvfp4", FP4, NVFP4_BLOCK, nvfp4_scales(self.weight, energies=self.energies, search=True).scale, 8),
        ):
            size = stored_bits(4, block=block, scale_bits=scale_bits)
            way = Way(name, "quantize", size, size, fast=True)
            rounded = nearest(self.weight, scale, grid, block)
            if self.gram is not None:
                swept = gptq(self.weight, self.gram, scale, grid, block)
                rounded = descended(self.weight, self.gram, (swept, scale), grid, how=Descent(block=block))
            found.append(self.measured(way, rounded))
        return found

    def both(self, mask: Mask) -> Way:
        """2:4 and INT8, the zeros made up for where there is a Gram."""
        size = stored_bits(8, (2, 4))
        way = Way("2:4 int8", "both", size, size, fast=True)
        if self.gram is None:
            kept = np.where(mask, self.weight, 0)
            return self.measured(way, nearest(kept, scales_by_error(kept, INT8), INT8))

        def scaling(pruned: Floats) -> Floats:
            return scales_by_error(pruned, INT8, energies=self.energies)

        found = obr(self.weight, self.gram, scaling, INT8, mask, Compensation())
        better = descended(self.weight, self.gram, (found.weight, found.scale), INT8, mask)
        return self.measured(way, better)
