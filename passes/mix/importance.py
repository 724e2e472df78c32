"""How much each option of each layer hurts: the importance axis, one function for each answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import capture
from secateur.calib.solvers.grids import codes, real
from secateur.calib.solvers.mutual_information import BINS, Information, mutual_information, sample_means
from secateur.ir.runner import Meaning
from secateur.passes.layers.matrix import as_matrices
from secateur.passes.mix.candidates import Candidate, Choosable
from secateur.passes.mix.options import SPARSE, Option
from secateur.passes.mix.trials import Trials
from secateur.passes.quantize.weights import scales_of
from secateur.passes.sparsify.patterns import parse_pattern

Losses: TypeAlias = tuple[float, ...]
"""For each option of a layer what it costs in answers, 0 for float; infinite for what must not be taken."""

Importance: TypeAlias = Callable[[Trials, Sequence[Choosable]], list[Losses]]


def by_sensitivity(trials: Trials, chosen: Sequence[Choosable]) -> list[Losses]:
    """The error of the answers with only this layer as the option says: a trial for each layer and option."""
    total, done = sum(len(one.options) - 1 for one in chosen), 0
    found = []
    for one in chosen:
        losses = [0.0]
        for option in one.options[1:]:
            trials.progress("measuring sensitivity", done, total)
            losses.append(trials.error({one.candidate.name: option}))
            done += 1
        found.append(tuple(losses))
    trials.progress("measuring sensitivity", total, total)
    return found


def by_information(trials: Trials, chosen: Sequence[Choosable]) -> list[Losses]:
    """Mutual information of what a layer gives and what the model answers, times the relative error of its weight.

    QPruner (Zhou et al. 2024, section 3.2) gives more bits to layers that tell more. It needs one walk over the data,
    and is crude: a layer is one number for each sample, the mean of its output.
    """
    importance = layer_information(trials, [one.candidate for one in chosen])
    nats = np.array([one.corrected for one in importance])
    samples, most = max(one.samples for one in importance), max(one.bias for one in importance)
    filled = sorted(one.support for one in importance)
    trials.context.note(
        f"mutual information by {samples} samples: {filled[0]} to {filled[-1]} of {BINS**2} cells hold some; up to "
        f"{most:.3g} nats would show of numbers that have nothing to do with each other, and were taken off"
    )
    # A layer of which the histogram shows nothing is of little importance, not of none.
    floor = max(float(nats.max(initial=0.0)) / 100, 1e-6)
    found = []
    for one, amount in zip(chosen, nats.tolist(), strict=True):
        errors = (distortion(one.candidate, option) for option in one.options[1:])
        found.append((0.0, *(max(amount, floor) * error for error in errors)))
    return found


def layer_information(trials: Trials, layers: Sequence[Candidate]) -> list[Information]:
    """Mutual information of the mean output of each layer and of the answers, over the samples.

    An answer is the class of most belief where there are beliefs, else the mean of the output; of several outputs the
    one that tells most counts.
    """
    graph, source = trials.graph, trials.context.needed_source("importance=mi")
    seen = {layer.uses[0].op.output.name: _Means() for layer in layers}
    told = {name: _Answers(meaning) for name, meaning in trials.answers.meanings.items()}
    watchers: dict[str, list[Any]] = {}
    for name, one in [*seen.items(), *told.items()]:
        watchers.setdefault(name, []).append(one)
    capture(graph, source, trials.context.needed_runner("importance=mi"), watchers)
    answers = [one.samples for one in told.values()]
    found = []
    for layer in layers:
        given = seen[layer.uses[0].op.output.name].samples
        both = [mutual_information(given, one, ranks=True) for one in answers if len(one) == len(given)]
        found.append(max(both, key=lambda one: one.corrected, default=Information(0.0, 0.0, 0, 0)))
    return found


@dataclass
class _Means:
    """The mean of a value for each sample."""

    parts: list[NDArray[np.float64]] = field(default_factory=list)

    def update(self, array: NDArray[Any], weight: float) -> None:
        """Adds a batch."""
        self.parts.append(sample_means(array))

    @property
    def samples(self) -> NDArray[np.float64]:
        """All."""
        return np.concatenate(self.parts)


@dataclass
class _Answers(_Means):
    """One number for each sample of an output."""

    meaning: Meaning = "numbers"

    def __init__(self, meaning: Meaning) -> None:
        super().__init__()
        self.meaning = meaning

    def update(self, array: NDArray[Any], weight: float) -> None:
        """Adds a batch."""
        if self.meaning == "numbers" or array.ndim != 2:
            super().update(array, weight)
        else:
            self.parts.append(array.argmax(axis=-1).astype(np.float64))


def distortion(candidate: Candidate, option: Option) -> float:
    """The squared error of a weight as an option, over its energy: zeros by magnitude, then rounding to the nearest."""
    exact = candidate.uses[0].tensor.numpy().astype(np.float64)
    energy = float(np.vdot(exact, exact))
    if not energy:
        return 0.0
    now = exact
    if option.sparse and candidate.spot is not None:
        mask = parse_pattern(SPARSE).mask(candidate.spot.fold(np.abs(exact)))
        now = np.where(candidate.spot.unfold(mask), exact, 0.0)
    lost = float(np.square(exact - now).sum())
    for layer in candidate.layers.get(option, ())[:1]:
        matrices = as_matrices(layer.use, now)
        joined = matrices.reshape(-1, matrices.shape[-1])
        scale = scales_of(layer, joined, None, "mse").scale.astype(np.float32)
        rounded = real(codes(joined, scale, layer.format.grid, layer.block), scale, layer.block)
        lost += float(np.square(joined - rounded).sum())
    return lost / energy


IMPORTANCE: Mapping[str, Importance] = MappingProxyType({"sensitivity": by_sensitivity, "mi": by_information})
"""By name."""
