"""Decisions of structured pruning made from random arrays, with the rows that their moments are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.calib.gram import Gram
from secateur.ir import Tensor
from secateur.passes.layers.evidence import Evidence
from secateur.passes.prune.problem import Layer, Made, Problem

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Seen:
    """A layer, and the rows [samples, columns] and targets [samples, outputs] that it was calibrated on."""

    layer: Layer
    x: Array
    y: Array

    def shuffled(self, seed: int) -> Seen:
        order = np.random.default_rng(seed).permutation(len(self.x))
        return seen(replace(self.layer), self.x[order], self.y[order])

    def about(self, rows: Array) -> Array:
        """Rows as a fit sees them."""
        return rows - rows.mean(0) if self.layer.bias is not None else rows


def seen(layer: Layer, x: Array, y: Array) -> Seen:
    gram = Gram(x.shape[1], y.shape[1])
    for start in range(0, len(x), 17):
        gram.update(x[start : start + 17], y[start : start + 17])
    evidence = Evidence(gram, Gram(x.shape[1], y.shape[1]))
    return Seen(Layer(layer.matrix, layer.bias, layer.unit, evidence), x, y)


def random_layer(
    seed: int, unit: Sequence[int], *, taps: int = 1, outputs: int = 3, bias: bool = True, drift: float = 0.0
) -> Seen:
    """Correlated inputs far from zero; the target is what the layer gives, plus `drift`."""
    random = np.random.default_rng(seed)
    width = len(unit) * taps
    x = random.normal(size=(60, width)) @ (np.eye(width) + 0.5 * random.normal(size=(width, width)))
    x += random.normal(size=width)
    matrix, shift = random.normal(size=(outputs, width)), random.normal(size=outputs) if bias else None
    y = x @ matrix.T + (0.0 if shift is None else shift) + drift * random.normal(size=(60, outputs))
    return seen(Layer(matrix, shift, np.array(unit), None), x, y)


def problem(
    *layers: Seen, size: int, makers: Sequence[Array] = (), scales: Sequence[Array] = (), damping: float = 0.01
) -> Problem:
    """`makers` have one row for each unit."""
    made = tuple(Made(Tensor(rows.astype(np.float32)), 0, np.arange(size), size) for rows in makers)
    random = np.random.default_rng(0)
    return Problem(size, tuple(one.layer for one in layers), made, tuple(scales), random, damping)
