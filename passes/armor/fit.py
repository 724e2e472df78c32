"""The three matrices of one layer, from what calibration says of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from secateur.calib.solvers.armor import Wrapped, armor, largest_block, nowag_mask, unwrapped
from secateur.calib.solvers.ridge import strongest_pull
from secateur.passes.layers.problem import Array, Problem
from secateur.passes.sparsify.patterns import Neighbours
from secateur.passes.sparsify.repair.least_squares import STRENGTHS, UNJUDGED

SMALLEST = 4
"""Smaller blocks than this mend too little for two more ops each."""

_TRIAL = 2
"""Iterations after which pulls are compared."""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks on both sides of a core [outputs, inputs]."""

    left: int
    right: int

    def extra(self, outputs: int, inputs: int) -> int:
        """Numbers, and multiply-accumulates for each row of inputs, that the blocks cost."""
        return outputs * self.left + inputs * self.right


@dataclass(frozen=True)
class Effort:
    """How much work the fit is.

    Attributes:
        iterations: on the diagonal of the Gram matrix, at the most.
        refits: on all of it, after that.
    """

    iterations: int
    refits: int


@dataclass(frozen=True)
class Fitted:
    """What a layer becomes.

    Attributes:
        wrapped: the three matrices.
        bias: [outputs] where the layer takes one that may change, else None.
        error: squared error on the held-out samples, 1 - R²; None without data.
        unwrapped: that of the core where the fit began, without blocks.
    """

    wrapped: Wrapped
    bias: Array | None
    error: float | None = None
    unwrapped: float | None = None


def blocks_of(outputs: int, inputs: int, group: int, limit: int, extra: float) -> Blocks | None:
    """The largest blocks up to `limit` that cost at most a share `extra` of the dense layer; None where none do.

    Those on the right hold whole groups of the pattern.
    """
    for size in range(limit, max(SMALLEST, group) - 1, -1):
        found = Blocks(largest_block(outputs, size), group * largest_block(inputs // group, size // group))
        fits = found.extra(outputs, inputs) <= extra * outputs * inputs
        if fits and min(found.left, found.right) >= SMALLEST:
            return found
    return None


def fit(problem: Problem, pattern: Neighbours, blocks: Blocks, effort: Effort) -> Fitted:
    """First by the paper's loss, the diagonal of the Gram matrix, then on all of it.

    The way over the diagonal is the better start as well as the cheaper one: from masks that other methods fitted to
    the whole matrix, blocks find less to do. How strongly all is pulled to the dense weights, the held-out samples say,
    and at the end whether each of the two stages was any good; then they are fitted on, too.
    """
    blind = problem.evidence is None or not problem.energies.any()
    energies = np.ones(problem.weight.shape[1]) if blind else problem.energies
    mask = nowag_mask(problem.weight, energies, pattern.keep, pattern.group)
    start = unwrapped(np.where(mask, problem.weight, 0.0), blocks.left, blocks.right)
    if blind:
        return Fitted(_armor(start, problem.weight, energies, pattern, effort.iterations), problem.bias)
    diagonal = problem.gram.diagonal()
    diagonal = diagonal + problem.damping * problem.scale
    first = _armor(start, problem.target_at(UNJUDGED * problem.damping), diagonal, pattern, effort.iterations)
    strength, last = _refitted(first, problem, pattern, effort.refits)
    candidates = [last, first, start]
    which, errors = problem.judge([(one.matrix, problem.compensated(one.matrix)) for one in candidates])
    found, everything = candidates[which], problem
    if problem.seen.held_out.count:
        everything = problem.on_everything()
        if effort.refits and which == 0:
            found = _fully(last, everything, pattern, strength, _TRIAL)
    bias = everything.compensated(found.matrix)
    return Fitted(found, bias, errors[which], errors[-1])


def _refitted(start: Wrapped, problem: Problem, pattern: Neighbours, refits: int) -> tuple[float, Wrapped]:
    """The pull that the held-out samples allow, and where it leads."""
    held_out = problem.seen.held_out
    if not refits or not held_out.count:
        strength = UNJUDGED * problem.damping
        return strength, _fully(start, problem, pattern, strength, refits)
    strengths = [factor * problem.damping for factor in STRENGTHS]
    trial = min(_TRIAL, refits)
    tried = [_fully(start, problem, pattern, strength, trial) for strength in strengths]
    errors = [float(np.sum(problem.errors(one.matrix, problem.compensated(one.matrix)))) for one in tried]
    # A mean of squares over n rows varies by about 1 / sqrt(n) of itself; two over the same rows differ less.
    strength = strongest_pull(strengths, np.array(errors), 0.5 / math.sqrt(held_out.rows))
    begun = tried[strengths.index(strength)]
    return strength, _fully(begun, problem, pattern, strength, refits - trial)


def _fully(start: Wrapped, problem: Problem, pattern: Neighbours, strength: float, iterations: int) -> Wrapped:
    return _armor(start, problem.target_at(strength), problem.damped(strength), pattern, iterations)


def _armor(start: Wrapped, target: Array, gram: Array, pattern: Neighbours, iterations: int) -> Wrapped:
    return armor(start, target, gram, (pattern.keep, pattern.group), iterations=iterations)
