"""How the model's answers depend on each of its weights: moments of scores, for criteria that go by gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from secateur.calib.batches import Batch
from secateur.calib.capture import Part
from secateur.calib.output_error import meanings
from secateur.ir.errors import DataError
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.passes.context import Context
from secateur.passes.layers.problem import Gradients

DRAWS = 64
"""So many times batches are differentiated, each time at new answers."""


def measure(known: Known, weights: Sequence[Value], context: Context, who: str) -> Mapping[str, Gradients]:
    """Moments of the scores at these constants, by name, each shaped like the constant.

    Answers are drawn from the model itself (`secateur.ir.runner.Differentiator`). A score is the sum over a batch: as
    those of different samples are independent and of mean zero, the mean of its squares, divided by the samples of a
    batch, is the Fisher information of one sample.

    Raises:
        DataError: there is no data, or a gradient is NaN or infinite.
        BackendError: nothing was given that differentiates, or it cannot.
    """
    factory, source = context.needed_differentiator(who), context.needed_source(who)
    graph, names = known.graph, [weight.name for weight in weights]
    if not names:
        return {}
    sums: dict[str, Gradients] = {}
    with factory(graph, at=names, outputs=meanings(known)) as scores:
        for index, batch in _draws(Part(graph, source)):
            root = np.sqrt(float(batch.samples or 1))
            for name, score in scores.run(batch.feeds, context.seed + index).items():
                one = np.asarray(score, np.float64) / root
                if not np.isfinite(one).all():
                    raise DataError(
                        f"the gradient at {name!r} is NaN or infinite",
                        hint="find out what the model makes of this data",
                    )
                before = sums.get(name)
                found = (one, np.abs(one), np.square(one))
                if before is not None:
                    found = (before.mean + found[0], before.absolute + found[1], before.square + found[2])
                sums[name] = Gradients(*found)
    return {name: Gradients(one.mean / DRAWS, one.absolute / DRAWS, one.square / DRAWS) for name, one in sums.items()}


def _draws(part: Part) -> Iterator[tuple[int, Batch]]:
    """The first batches, as often as it takes."""
    index = 0
    while index < DRAWS:
        for _, batch in part.walk():
            yield index, batch
            index += 1
            if index == DRAWS:
                return
