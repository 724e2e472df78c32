"""Two layers fitted together: against an optimiser at tiny size, and what must never get worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares as levenberg

from secateur.calib.solvers.two_layers import Sample, TwoLayers, _gauss_newton, _Linear, _slope

Array = np.ndarray[Any, Any]


def relu(made: Sequence[Array]) -> Array:
    return np.maximum(made[0], 0)


def gated(made: Sequence[Array]) -> Array:
    return made[0] / (1 + np.exp(-made[0])) * made[1]


def case(between: Any, seed: int = 0, count: int = 200) -> tuple[Sample, TwoLayers]:
    """Rows that a net of six hidden units makes, and one that has four of them."""
    random, firsts = np.random.default_rng(seed), 2 if between is gated else 1
    x = np.column_stack([random.normal(size=(count, 5)), np.ones(count)]).astype(np.float32)
    first = [random.normal(size=(6, 6)).astype(np.float32) for _ in range(firsts)]
    second = random.normal(size=(6, 3))
    target = (between([x @ one for one in first]) @ second + 1).astype(np.float32)
    left = TwoLayers(tuple(one[:, :4] for one in first), second[:4], np.ones(3))
    return Sample((x,) * firsts, target), left


@pytest.mark.parametrize("between", [relu, gated])
def test_a_step_is_the_one_that_normal_equations_give(between: Any) -> None:
    sample, weights = case(between)
    before = [rows @ one for rows, one in zip(sample.inputs, weights.first, strict=True)]
    slopes = [_slope(between, before, which) for which in range(len(before))]
    linear = _Linear(sample.inputs, slopes, weights.second.astype(np.float32))
    shapes = [one.shape for one in weights.first]
    sizes = [int(np.prod(shape)) for shape in shapes]

    def moved(flat: Array) -> Array:
        parts = np.split(flat.astype(np.float32), np.cumsum(sizes)[:-1])
        return linear.forward([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]).reshape(-1)

    jacobian = np.stack([moved(one) for one in np.eye(sum(sizes))], axis=1)
    outputs = np.random.default_rng(1).normal(size=sample.target.shape).astype(np.float32)
    back = np.concatenate([one.reshape(-1) for one in linear.backward(outputs)])
    np.testing.assert_allclose(back, jacobian.T @ outputs.reshape(-1), rtol=1e-3, atol=1e-2)
    found = np.concatenate([one.reshape(-1) for one in _gauss_newton(linear, outputs, 1e-6, 300)])
    wanted = np.linalg.lstsq(jacobian, outputs.reshape(-1), rcond=None)[0]
    left = [np.sum(np.square(jacobian @ one - outputs.reshape(-1))) for one in (found, wanted)]
    assert left[0] <= 1.001 * left[1]


@pytest.mark.parametrize("between", [relu, gated])
def test_slopes_are_derivatives(between: Any) -> None:
    sample, weights = case(between)
    before = [rows @ one for rows, one in zip(sample.inputs, weights.first, strict=True)]
    sure = np.abs(before[0]) > 0.5
    small = np.float32(1e-3)
    exact = (between([before[0] + small, *before[1:]]) - between([before[0] - small, *before[1:]])) / (2 * small)
    np.testing.assert_allclose(_slope(between, before, 0)[sure], exact[sure], atol=2e-2)


@pytest.mark.parametrize("between", [relu, gated])
def test_no_turn_makes_it_worse_and_in_the_end_it_is_where_an_optimiser_gets(between: Any) -> None:
    sample, present = case(between)
    errors = [present.error(sample, between)]
    for _ in range(60):
        present = present.second_refitted(sample, between, 0.0)
        errors.append(present.error(sample, between))
        present = present.first_refitted(sample, between, 1e-3, 20)
        errors.append(present.error(sample, between))
    assert (np.diff(errors) <= 1e-3 * errors[0]).all()
    assert errors[-1] < 0.7 * errors[1], "better than the second layer alone"

    start = case(between)[1]
    sizes = [one.size for one in start.first]

    def rest(flat: Array) -> Array:
        *first, second = np.split(flat, np.cumsum(sizes))
        made = [rows @ one.reshape(6, 4) for rows, one in zip(sample.inputs, first, strict=True)]
        hidden = np.column_stack([between(made), np.ones(len(sample))])
        return (hidden @ second.reshape(5, 3) - sample.target).reshape(-1)

    flat = [*(one.reshape(-1) for one in start.first), start.second.reshape(-1), start.bias]
    optimum = 2 * levenberg(rest, np.concatenate(flat), max_nfev=300).cost
    assert errors[-1] < 1.5 * optimum + 1e-3


def test_a_hidden_layer_that_suffices_is_found_and_without_bias_there_is_none() -> None:
    sample, _ = case(relu)
    full = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)
    linear = TwoLayers((full,), np.zeros((6, 3)), None)
    target = (np.maximum(sample.inputs[0] @ full, 0) @ np.ones((6, 3))).astype(np.float32)
    found = linear.second_refitted(Sample(sample.inputs, target), relu, 0.0)
    assert found.bias is None
    np.testing.assert_allclose(found.second, np.ones((6, 3)), atol=1e-3)
