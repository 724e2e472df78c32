"""What a layer would be with each way to spend the same bits: fewer bits, fewer weights, or both. Nothing is changed.

Kuzmin et al. 2023, "Pruning vs Quantization: Which is Better?": a weight of b bits against one of 16 bits of which the
share b / 16 stays. Here every way is measured on the layer itself: on its weights, and on what it gives of data that
was held out from fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.block_scales import NVFP4_BLOCK, nvfp4_scales
from secateur.calib.solvers.column_sweep import Choice, Factor, column_sweep, factor, keep_of
from secateur.calib.solvers.element_masks import keep_of as best_of
from secateur.calib.solvers.element_masks import keep_share
from secateur.calib.solvers.gptq import Ordered, better_of, gptq, ordered, row_errors
from secateur.calib.solvers.grids import FP4, FP8, INT4, INT8, Grid, nearest, scales_by_error, scales_by_range
from secateur.calib.solvers.masked_least_squares import masked_least_squares
from secateur.calib.solvers.obr import Compensation, obr
from secateur.calib.solvers.spending import (
    exact_pruning,
    least_pruning,
    least_rounding,
    same_size,
    smallest_energy,
    stored_bits,
)

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Kind: TypeAlias = Literal["quantize", "prune", "both"]

BITS = (8, 4)
"""Sizes at which ways are held against each other; a weight of 16 bits is the whole."""
TIE = 0.5
"""Decibels by which one has to be ahead."""
EXACT = 8
"""Columns up to which all masks of a row are tried."""


@dataclass(frozen=True)
class Layer:
    """A matrix, or some of its rows, and what it reads.

    Attributes:
        weight: [rows, columns]; columns count kernel taps slowest, input channels fastest.
        gram: [columns, columns] of the inputs to fit on.
        held_out: the same of those to judge by.
        channels: input channels.
        product: whether it is a plain matrix product: codes of four bits are scaled in blocks there.
    """

    weight: Array
    gram: Array
    held_out: Array
    channels: int
    product: bool

    @cached_property
    def factor(self) -> Factor:
        """Of the Gram, for sweeps."""
        return factor(self.gram, dtype=np.float32)

    @cached_property
    def ordered(self) -> Ordered:
        """The same with the largest inputs first, for GPTQ."""
        return ordered(self.gram)

    @cached_property
    def energies(self) -> Array:
        """Mean squares of the inputs, up to a factor."""
        found: Array = self.gram.diagonal().copy()
        return found

    @cached_property
    def two_four(self) -> tuple[Mask, Array]:
        """Swept to 2:4, for all ways that start from there."""
        return self.swept(keep_of(2, 4))

    def swept(self, choice: Choice) -> tuple[Mask, Array]:
        """What SparseGPT's sweep keeps, and least squares for that."""
        found = column_sweep(self.weight, self.factor, choice)
        return found.mask, masked_least_squares(self.gram, self.weight, found.mask, start=found.weight)

    @cached_property
    def smallest(self) -> float:
        """The smallest eigenvalue of the Gram to judge by."""
        return smallest_energy(self.held_out)

    def least_pruning(self, kept: int) -> float:
        """What keeping so many weights of each row costs at least: exactly where all masks can be tried."""
        if self.weight.shape[1] <= EXACT:
            return float(exact_pruning(self.held_out, self.weight, kept).sum())
        return float(least_pruning(self.smallest, self.weight, kept).sum())

    @cached_property
    def block(self) -> int | None:
        """Columns that share a scale of four bits; None for one scale a row."""
        sizes = (128, 64, 32, 16) if self.product else ()
        return next((size for size in sizes if self.channels % size == 0 and self.channels > size), None)


@dataclass(frozen=True)
class Made:
    """What a way makes of a layer: its weight, and what its error is at the least.

    Attributes:
        weight: [rows, columns].
        least: (w - w') H (w - w') of the rows at least, whatever is chosen on the same grid, or of as many weights.
    """

    weight: NDArray[Any]
    least: float = 0.0


@dataclass(frozen=True)
class Way:
    """A way to spend bits.

    Attributes:
        name: as in the table.
        kind: whether it has fewer bits, fewer weights, or both.
        bits: nominal, as the paper pairs them: masks and scales are not counted.
        stored: with masks and scales.
        make: what becomes of a layer; None where it cannot have it.
        fits: whether a layer can have it.
    """

    name: str
    kind: Kind
    bits: int
    stored: Callable[[Layer], float]
    make: Callable[[Layer], Made]
    fits: Callable[[Layer], bool] = lambda layer: True


def _quantized(grid: Grid, how: Literal["nearest", "clipped", "gptq"]) -> Callable[[Layer], Made]:
    def make(layer: Layer) -> Made:
        block = layer.block if grid is INT4 else None
        by_range = scales_by_range(layer.weight, grid, block)
        clipped = by_range if how == "nearest" else scales_by_error(layer.weight, grid, block, layer.energies)
        scale = clipped.astype(np.float64)
        found = nearest(layer.weight, scale, grid, block)
        if how == "gptq":
            swept = gptq(layer.weight, layer.ordered, scale, grid, block)
            found = better_of(layer.gram, layer.weight, [swept, found]).weight
        return Made(found, float(least_rounding(layer.smallest, layer.weight, scale, grid, block).sum()))

    return make


def _nvfp4(layer: Layer) -> Made:
    scale = nvfp4_scales(layer.weight, NVFP4_BLOCK, layer.energies, search=True).scale.astype(np.float64)
    found = nearest(layer.weight, scale, FP4, NVFP4_BLOCK)
    return Made(found, float(least_rounding(layer.smallest, layer.weight, scale, FP4, NVFP4_BLOCK).sum()))


def _pruned(zeros: float | Literal["2:4"], how: Literal["magnitude", "sparsegpt"]) -> Callable[[Layer], Made]:
    def make(layer: Layer) -> Made:
        mask, found = _sparse(layer, zeros, how)
        kept = int(mask.sum(axis=1).max(initial=0))
        return Made(found, layer.least_pruning(kept))

    return make


def _sparse(layer: Layer, zeros: float | Literal["2:4"], how: str) -> tuple[Mask, Array]:
    """Zeros in each row: of the smallest, or as SparseGPT's sweep finds them, and least squares for what stays."""
    if how == "magnitude":
        sizes = np.abs(layer.weight)
        mask = best_of(sizes, 2, 4) if zeros == "2:4" else keep_share(sizes, 1 - float(zeros), "row")
        return mask, np.where(mask, layer.weight, 0.0)
    return layer.two_four if zeros == "2:4" else layer.swept(_share_of_rows(float(zeros)))


def _share_of_rows(zeros: float) -> Choice:
    def mask(weight: NDArray[Any], spread: NDArray[Any], _: int) -> Mask:
        scores = (weight / spread[:, None]) ** 2
        return keep_share(np.ascontiguousarray(scores.T), 1 - zeros, "row").T

    return Choice(mask)


def _both(layer: Layer) -> Made:
    mask, found = _sparse(layer, "2:4", "sparsegpt")
    scale = scales_by_error(found, INT8, None, layer.energies).astype(np.float64)
    candidates = [
        obr(layer.weight, layer.gram, scale, INT8, mask, Compensation()).weight,
        nearest(found, scale, INT8, None, mask),
    ]
    best = better_of(layer.gram, layer.weight, candidates).weight
    kept = int(mask.sum(axis=1).max(initial=0))
    return Made(best, layer.least_pruning(kept))


def _row_scales(bits: float) -> Callable[[Layer], float]:
    return lambda layer: bits + 16 / layer.weight.shape[1]


def _of_four(layer: Layer) -> bool:
    return layer.channels % 4 == 0


def _int4_bits(layer: Layer) -> float:
    return stored_bits(4, block=layer.block or layer.weight.shape[1])


WAYS: tuple[Way, ...] = (
    Way("int8 nearest", "quantize", 8, _row_scales(8), _quantized(INT8, "nearest")),
    Way("int8 clipped", "quantize", 8, _row_scales(8), _quantized(INT8, "clipped")),
    Way("int8 gptq", "quantize", 8, _row_scales(8), _quantized(INT8, "gptq")),
    Way("fp8 nearest", "quantize", 8, _row_scales(8), _quantized(FP8, "nearest")),
    Way("50 % magnitude", "prune", 8, lambda _: stored_bits(share=same_size(8)), _pruned(0.5, "magnitude")),
    Way("50 % SparseGPT, least squares", "prune", 8, lambda _: stored_bits(share=0.5), _pruned(0.5, "sparsegpt")),
    Way("2:4 magnitude", "prune", 8, lambda _: stored_bits(pattern=(2, 4)), _pruned("2:4", "magnitude"), _of_four),
    Way(
        "2:4 SparseGPT, least squares",
        "prune",
        8,
        lambda _: stored_bits(pattern=(2, 4)),
        _pruned("2:4", "sparsegpt"),
        _of_four,
    ),
    Way("2:4 + int8", "both", 5, lambda layer: stored_bits(8, (2, 4)) + 16 / layer.weight.shape[1], _both, _of_four),
    Way("int4 nearest", "quantize", 4, _int4_bits, _quantized(INT4, "nearest")),
    Way("int4 clipped", "quantize", 4, _int4_bits, _quantized(INT4, "clipped")),
    Way("int4 gptq", "quantize", 4, _int4_bits, _quantized(INT4, "gptq")),
    Way(
        "nvfp4 nearest",
        "quantize",
        4,
        lambda _: stored_bits(4, block=NVFP4_BLOCK, scale_bits=8),
        _nvfp4,
        lambda layer: layer.product and layer.channels % NVFP4_BLOCK == 0,
    ),
    Way("75 % magnitude", "prune", 4, lambda _: stored_bits(share=same_size(4)), _pruned(0.75, "magnitude")),
    Way("75 % SparseGPT, least squares", "prune", 4, lambda _: stored_bits(share=0.25), _pruned(0.75, "sparsegpt")),
)
"""All that are measured. Scales are counted as 16 bits each, masks as a bit each or two bits a kept value of 2:4."""


@dataclass(frozen=True)
class Energies:
    """Sums of squares of one way on one matrix: of the weights and of what they give, and of the errors of both.

    Attributes:
        stored: bits of a weight.
        least: of the error of what they give, at the least.
    """

    weight: float
    weight_error: float
    output: float
    output_error: float
    stored: float
    least: float

    def __add__(self, other: Energies) -> Energies:
        return Energies(
            self.weight + other.weight,
            self.weight_error + other.weight_error,
            self.output + other.output,
            self.output_error + other.output_error,
            (self.stored * self.weight + other.stored * other.weight) / ((self.weight + other.weight) or 1.0),
            self.least + other.least,
        )


def spend(layer: Layer, ways: Sequence[Way] = WAYS) -> Iterator[tuple[Way, Energies]]:
    """Every way that a layer can have, and what it makes of it."""
    energy = float(np.square(layer.weight).sum())
    output = float(row_errors(layer.held_out, layer.weight, np.zeros_like(layer.weight)).sum())
    for way in ways:
        if way.fits(layer):
            made = way.make(layer)
            error = max(float(row_errors(layer.held_out, layer.weight, made.weight).sum()), 0.0)
            lost = float(np.square(layer.weight - made.weight).sum())
            # What is certain to be lost cannot be more than what was, but for rounding.
            yield way, Energies(energy, lost, output, error, way.stored(layer), min(made.least, error))
