"""A new bias, nothing else."""

from __future__ import annotations

from secateur.passes.prune.problem import Indices, Layer, Problem
from secateur.passes.prune.repair import Repaired, judged


def bias(problem: Problem, layer: Layer, kept: Indices) -> Repaired:
    """What the removed inputs give on average goes into the bias: W_S mean(x_S).

    An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models" (FLAP), section 3.3.
    """
    gone, columns = layer.gone(kept), layer.columns(kept)
    if layer.bias is None:
        return judged(layer, columns, [], note="it takes no bias")
    compensated = layer.bias + layer.matrix[:, gone] @ layer.seen.fit.mean[gone]
    return judged(layer, columns, [(layer.matrix[:, columns].T, compensated)])
