"""Least squares behind a ReLU: its closed forms against a grid, and what it is worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from secateur.calib.solvers.clipped import Clipped

Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("high", [math.inf, 6.0])
@pytest.mark.parametrize("coupling", [0.1, 1.0, 5.0])
def test_responses_are_the_best_on_a_grid(high: float, coupling: float) -> None:
    found = np.linspace(-8, 14, 23)[:, None]
    wanted = np.clip(np.linspace(-2, 8, 15), 0.0, high)[None]
    one = Clipped(np.zeros((1, 1)), np.zeros((1, 1)), 0.0, high)
    best = one.responses(np.broadcast_to(found, (23, 15)), np.broadcast_to(wanted, (23, 15)), coupling)

    def cost(responses: Array) -> Array:
        through = np.clip(responses, 0.0, high)
        return np.square(through - wanted[..., None]) + coupling * np.square(responses - found[..., None])

    grid = np.linspace(-20, 20, 4001)[None, None]
    assert (cost(best[..., None])[..., 0] <= cost(grid).min(axis=-1) + 1e-12).all()


@pytest.mark.parametrize("high", [math.inf, 1.0])
def test_it_does_better_behind_the_activation_than_least_squares(high: float) -> None:
    """Targets are strongly negative where the kept inputs say little of them: that need not be met."""
    random = np.random.default_rng(0)
    x, hidden = random.normal(size=(600, 6)), random.normal(size=(600, 3))
    y = x @ random.normal(size=(6, 4)) + 2 * np.minimum(hidden @ random.normal(size=(3, 4)), 0) - 0.5
    one = Clipped(x, y, 0.0, high)
    plain = np.linalg.lstsq(np.c_[x, np.ones(600)], y)[0]
    coefficients, bias = one.refit(plain[:-1], plain[-1], 1e-6)
    assert one.error(coefficients, bias) < 0.9 * one.error(plain[:-1], plain[-1])


def test_where_nothing_is_clipped_it_is_least_squares() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 5))
    y = x @ random.normal(size=(5, 2)) + 0.1 * random.normal(size=(200, 2)) + 50.0
    plain = np.linalg.lstsq(np.c_[x, np.ones(200)], y)[0]
    coefficients, bias = Clipped(x, y, 0.0, math.inf).refit(plain[:-1], plain[-1], 0.0)
    np.testing.assert_allclose(coefficients, plain[:-1], atol=1e-9)
    np.testing.assert_allclose(bias, plain[-1], atol=1e-8)
