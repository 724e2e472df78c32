"""Repairs from weights alone: kept units take over from removed ones what they are alike in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from secateur.calib.solvers.merging import best_matches, combinations
from secateur.passes.prune.affine import Affine
from secateur.passes.prune.problem import Array, Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, judged

_Solver: TypeAlias = Callable[[Affine, Indices, Indices], Array]


def udfc(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """Each removed unit as the linear combination of kept ones that comes nearest to it.

    Bai et al. 2023, "Unified Data-Free Compression: Pruning and Quantization without Fine-Tuning", ICCV.
    """
    return _merged(problem, layer, kept, lambda one, gone, stays: combinations(one.rows, one.shifts, gone, stays))


def neuron_merging(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """Each removed unit as a positive multiple of the kept one that is most like it.

    Kim et al. 2020, "Neuron Merging: Compensating for Pruned Neurons", NeurIPS.
    """
    return _merged(problem, layer, kept, lambda one, gone, stays: best_matches(one.rows, one.shifts, gone, stays))


def _merged(problem: Problem, layer: Layer, kept: Indices, shares_of: _Solver) -> Repaired:
    """The layer reads kept units with what it read removed ones with, too, each tap by itself."""
    columns = layer.columns(kept)
    members = layer.members(problem.size)
    widths = {len(some) for some in members}
    if problem.affine is None or len(widths) != 1:
        return judged(layer, columns, [], note="not merged: more than one weight makes its inputs")
    gone = np.setdiff1d(np.arange(problem.size), kept)
    shares = shares_of(problem.affine, gone, kept)
    by_unit = layer.matrix[:, np.concatenate(members)].reshape(len(layer.matrix), problem.size, -1)
    matrix = layer.matrix.copy()
    merged = by_unit[:, kept] + np.einsum("gk,ngt->nkt", shares, by_unit[:, gone])
    matrix[:, np.concatenate([members[unit] for unit in kept])] = merged.reshape(len(matrix), -1)
    return judged(layer, columns, [(matrix[:, columns].T, layer.bias)])
