"""What calibration says of the inputs of layers that are to go on giving what they give: one model runs, not two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import Part
from secateur.calib.gram import Gram
from secateur.ir.rules.weights import WeightUse
from secateur.passes.context import Context
from secateur.passes.layers.evidence import HELD_OUT, Evidence
from secateur.passes.layers.reads import enough_positions, rows_of


def gather_inputs(
    part: Part, uses: Sequence[WeightUse], context: Context, positions: int
) -> list[tuple[Evidence, ...]]:
    """Runs a model over the calibration data once, and gathers moments of what each matrix of each layer reads.

    Every fifth sample is held out, or every fifth row where these are no samples. Layers that read the same rows
    (queries, keys, values) share their moments.

    Args:
        part: of the model as it is now.
        uses: its layers.
        context: runner and seed.
        positions: output positions to sample of each image, more of few images; 0 takes all.

    Returns:
        For each layer evidence without targets for each of its matrices.

    Raises:
        DataError: a value is NaN or infinite, or there is no data.
        BackendError: no runtime was given.
    """
    readers: dict[object, list[WeightUse]] = {}
    for use in uses:
        key: object = use if use.taps or use.slabs > 1 else (use.data.name, use.data_axis)
        readers.setdefault(key, []).append(use)
    found = {key: _evidence(some[0]) for key, some in readers.items()}
    names = sorted({use.data.name for use in uses})
    positions, seen = enough_positions(part, uses, positions), 0
    with context.needed_runner("gathering moments")(part.graph, inputs=part.inputs, outputs=names) as runner:
        for index, batch in part.walk():
            fetched = runner.run(batch.feeds)
            samples = 0
            for key, some in readers.items():
                read = fetched[some[0].data.name]
                samples = len(read)
                for slabs, is_held in _rows(some[0], read, seen, positions, (context.seed, index)):
                    for evidence, rows in zip(found[key], slabs, strict=True):
                        if len(rows):
                            (evidence.held_out if is_held else evidence.fit).update(rows, weight=batch.weight)
            seen += samples
    shared = {id(use): _each(found[key], len(some)) for key, some in readers.items() for use in some}
    return [shared[id(use)] for use in uses]


def _evidence(use: WeightUse) -> tuple[Evidence, ...]:
    width = use.tensor.size // (use.slabs * (use.outputs // use.groups))
    return tuple(Evidence(Gram(width), Gram(width)) for _ in range(use.slabs))


def _each(slabs: tuple[Evidence, ...], readers: int) -> tuple[Evidence, ...]:
    """The evidence of one of several readers, who share what they derive from it."""
    if readers == 1:
        return slabs
    none = slice(0, 0)
    return tuple(Evidence(one.fit.with_targets_of(none), one.held_out.with_targets_of(none)) for one in slabs)


def _rows(
    use: WeightUse, read: NDArray[Any], seen: int, positions: int, seed: tuple[int, ...]
) -> Iterator[tuple[Sequence[NDArray[Any]], bool]]:
    """Rows of each slab, those to fit and those to hold out, in chunks."""
    axes = [axis % read.ndim for axis in (use.data_axis, use.data_batch) if axis is not None and -axis <= read.ndim]
    if use.taps or 0 not in axes:
        held = (seen + np.arange(len(read))) % HELD_OUT == HELD_OUT - 1
        for is_held, chosen in ((False, ~held), (True, held)):
            if chosen.any():
                for (x,), _ in rows_of(use, [read[chosen]], None, positions, (*seed, int(is_held))):
                    yield list(x), is_held
        return
    for (x,), _ in rows_of(use, [read], None, positions, (*seed, 0)):
        held = np.arange(x.shape[1]) % HELD_OUT == HELD_OUT - 1
        yield list(x[:, ~held]), False
        yield list(x[:, held]), True
