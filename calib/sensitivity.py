"""How much a model's answers depend on values inside: what an error there costs, in one unit for all layers.

With g the score at a value (`secateur.ir.runner.Differentiator`), a small error e of it moves the model's answers by a
divergence of 1/2 E[(g e)^2] (the Fisher metric). Kept of g is the mean, over samples, of its squares summed over all
positions of a channel: with errors alike at all positions, half of it times their mean square is the divergence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from secateur.calib.batches import Batch, Source
from secateur.calib.capture import fitted
from secateur.calib.output_error import meanings
from secateur.ir.errors import DataError
from secateur.ir.rules.known import Known
from secateur.ir.runner import DifferentiatorFactory

Array: TypeAlias = npt.NDArray[np.float64]


def sensitivities(
    known: Known,
    source: Source,
    factory: DifferentiatorFactory,
    at: Mapping[str, int],
    *,
    samples: int = 32,
    seed: int = 0,
) -> dict[str, Array]:
    """The squares of the scores in each channel of values: summed over positions, the mean over samples.

    Args:
        known: a whole model, its answers by what its outputs mean (`secateur.calib.output_error.meanings`).
        source: what is fed to its inputs.
        factory: what differentiates it.
        at: names of values, each with the axis that counts its channels.
        samples: how many samples of the data to look at, at the most (whole batches); one answer is drawn for each.
        seed: of the answers.

    Returns:
        [channels] for each value.

    Raises:
        DataError: there is no data, or a score is NaN or infinite.
    """
    sums: dict[str, Array] = {}
    seen = 0
    with factory(known.graph, at=list(at), outputs=meanings(known)) as scores:
        for index, batch in enumerate(source):
            if seen >= samples:
                break
            if batch.weight <= 0:
                continue
            feeds = fitted(Batch(batch.feeds, batch.weight), known.graph, source.name, index).feeds
            for name, score in scores.run(feeds, seed + index).items():
                rows = np.moveaxis(np.asarray(score, np.float64), at[name], -1).reshape(-1, score.shape[at[name]])
                squares = np.einsum("nc,nc->c", rows, rows)
                if not np.isfinite(squares).all():
                    raise DataError(
                        f"the score at {name!r} is NaN or infinite in batch {index}",
                        hint="find out what the model makes of this batch",
                    )
                sums[name] = sums.get(name, 0.0) + squares
            seen += max((len(array) for array in feeds.values() if array.ndim), default=1)
    if not seen:
        raise DataError(f"{source.name} has no samples that count", hint="give some")
    return {name: total / seen for name, total in sums.items()}
