"""What steps of a diffusion sampler count in calibration: early ones more, for what goes wrong there is carried along.

Zhu et al. 2025, "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", section 3.2: the Gram matrix of a layer
is a weighted sum over steps. The sampler's loop is outside the graph; a `Batch` holds what one of its steps feeds to
the model, with the weight of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch
from secateur.ir.errors import DataError

Schedule: TypeAlias = Literal["uniform", "linear-decrease", "linear-increase", "log-decrease", "log-increase"]

LEAST, MOST = 0.8, 1.2
"""What the steps at both ends count, as published."""


def step_weights(
    steps: int, schedule: Schedule = "log-decrease", least: float = LEAST, most: float = MOST
) -> NDArray[np.float64]:
    """[steps] what each step counts; step 0 is executed first and has the most noise.

    With T steps, `log-decrease` is `least + (most - least) ln(T - t) / ln T` at step t, from `most` down to `least`;
    `log-increase` is that backwards, linear ones are straight between the ends, and `uniform` is 1.

    Raises:
        ValueError: there are no steps, no such schedule, or not 0 <= least <= most.
    """
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, got {steps}")
    if schedule not in get_args(Schedule):
        raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {schedule!r}")
    if not 0 <= least <= most < np.inf:
        raise ValueError(f"weights need 0 <= least <= most, got {least} and {most}")
    if schedule == "uniform":
        return np.ones(steps)
    # One step alone is the first.
    left = np.arange(steps, 0, -1, dtype=np.float64)
    line = (left - 1) / max(steps - 1, 1) if schedule.startswith("linear") else np.log(left) / (np.log(steps) or 1.0)
    if steps == 1:
        line = np.ones(1)
    found: NDArray[np.float64] = least + (most - least) * line
    return found[::-1].copy() if schedule.endswith("increase") else found


def weighted_steps(
    trajectories: Callable[[], Iterable[Iterable[Mapping[str, Any]]]], weights: NDArray[np.float64]
) -> Callable[[], Iterator[Batch]]:
    """Calibration data from runs of a sampler: a function to be handed in as data, which `open_source` walks again.

    Args:
        trajectories: gives, anew for each walk and each time alike, for each run of the sampler what its steps feed to
            the model, by input name, the batch along axis 0.
        weights: [steps] what each step counts.

    Raises:
        DataError: on the way, where a run has another number of steps.
    """

    def batches() -> Iterator[Batch]:
        for number, run in enumerate(trajectories()):
            count = 0
            for feeds in run:
                if count < len(weights):
                    yield Batch(dict(feeds), float(weights[count]))
                count += 1
            if count != len(weights):
                raise DataError(
                    f"run {number} of the sampler has {count} steps, but there are weights for {len(weights)}",
                    hint="make them with step_weights(steps)",
                )

    return batches
