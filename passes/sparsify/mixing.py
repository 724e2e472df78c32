"""Two kinds of data in one objective: what a model is for in general, and what it is wanted for."""

from __future__ import annotations

import numpy as np

from secateur.calib.gram import Moments


def mixed(general: Moments, domain: Moments, share: float = 0.5) -> Moments:
    """(1 - share) H_general / tr(H_general) + share H_domain / tr(H_domain), and the products with targets alike.

    Each set counts by its share alone, however many samples it has: an idea of D-Pruner (Zhang et al. 2024) without
    its gradients.

    Args:
        general: moments of a layer on data of all kinds.
        domain: moments of the same layer on data of the domain.
        share: what the domain counts, in [0, 1].

    Raises:
        ValueError: the widths differ, or the share is out of range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    if general.xy.shape != domain.xy.shape:
        raise ValueError(f"moments of shapes {general.xy.shape} and {domain.xy.shape} are not of one layer")
    parts = [
        (weight / trace, one)
        for weight, one in ((1 - share, general), (share, domain))
        if weight > 0 and (trace := float(np.trace(one.xx))) > 0
    ]
    return Moments(
        1.0,
        sum((weight * one.xx for weight, one in parts), np.zeros(general.xx.shape)),
        sum((weight * one.xy for weight, one in parts), np.zeros(general.xy.shape)),
        sum((weight * one.yy for weight, one in parts), np.zeros(general.yy.shape)),
    )
