"""From what is said of columns or of weights to a ranking of units: the step that many criteria share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking, priced, ranked

Array: TypeAlias = NDArray[np.float64]


def informed(problem: Problem) -> Sequence[Layer]:
    """The layers of which the data says something: those whose targets vary."""
    return [layer for layer in problem.layers if layer.evidence is not None and target_energy(layer) > 0]


def target_energy(layer: Layer) -> float:
    """The sum of squares of the layer's targets, about their means where a bias takes those up; or its own `stake`."""
    if layer.stake is not None:
        return layer.stake
    gram = layer.seen.fit
    return float(np.sum(gram.yy)) if layer.bias is None else gram.count * float(np.sum(gram.target_variance))


def relative(saliencies: Iterable[Array], size: int) -> Ranking:
    """The ranking by several saliencies [size], each relative to its mean size, so that none outshouts another."""
    return ranked(sum((one / (np.abs(one).mean() or 1.0) for one in saliencies), np.zeros(size)))


def by_columns(problem: Problem, score: Callable[[Layer], Array]) -> Ranking:
    """The ranking by the sums of a score [columns] over each unit, the layers relative to their means."""
    layers = informed(problem)
    if not layers:
        return magnitude(problem, 0)
    return relative((layer.by_unit(score(layer), problem.size) for layer in layers), problem.size)


def by_error(problem: Problem, error: Callable[[Layer], Array]) -> Ranking:
    """The ranking by squared errors [size] of the layers' outputs, each a share of its target's energy; the mean."""
    layers = informed(problem)
    if not layers:
        return magnitude(problem, 0)
    shares = [error(layer) / target_energy(layer) for layer in layers]
    return priced(np.mean(shares, axis=0))
