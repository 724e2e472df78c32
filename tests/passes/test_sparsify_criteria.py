"""Criteria of element sparsity: published figures, invariances, and what they fall back on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.sparse_problems import gradients_of, random_rows, sparse_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir.errors import RefusedError
from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.criteria.d_pruner import weighed
from secateur.passes.sparsify.criteria.expression import expression, pruner_zero
from secateur.passes.sparsify.criteria.ria import powered, relative_importance
from secateur.passes.sparsify.criteria.wanda import wanda_variant
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Share, parse_pattern

HALF, PAIRS = parse_pattern("50%"), parse_pattern("2:4")


def _random(seed: int = 0, rows: int = 5, columns: int = 16) -> Problem:
    weight = np.random.default_rng(seed).normal(size=(rows, columns))
    square = np.random.default_rng(seed + 1).random(size=weight.shape)
    return sparse_problem(weight, random_rows(seed, 80, columns), gradients=gradients_of(square))


@pytest.mark.parametrize("name", CRITERIA.names())
@pytest.mark.parametrize("text", ["2:4", "1:4", "50%", "80%"])
def test_every_criterion_holds_every_pattern_and_says_the_same_twice(name: str, text: str) -> None:
    pattern = parse_pattern(text)
    first, again = (CRITERIA[name](_random(), pattern) for _ in range(2))
    assert pattern.holds(first)
    np.testing.assert_array_equal(first, again)
    assert (~first).sum() == int(first.size * pattern.zeros)


def test_ria_by_hand() -> None:
    found = relative_importance(np.array([[1.0, -2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(found, [[0.58333, 1.0], [1.178571, 1.238095]], atol=1e-5)


def test_ria_to_the_power_of_nothing_is_ri() -> None:
    one = _random()
    np.testing.assert_array_equal(powered("0").saliency(one), CRITERIA["ri"].saliency(one))
    np.testing.assert_array_equal(powered("0.5").saliency(one), CRITERIA["ria"].saliency(one))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 1000))
def test_wanda_does_not_see_how_a_product_is_shared_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    weight, x, factors = random.normal(size=(4, 8)), random.normal(size=(30, 8)), 2.0 ** random.integers(-3, 4, 8)
    one, other = sparse_problem(weight, x), sparse_problem(weight / factors, x * factors)
    np.testing.assert_array_equal(CRITERIA["wanda"](one, PAIRS), CRITERIA["wanda"](other, PAIRS))


def test_wanda_on_inputs_all_alike_is_magnitude_and_prunes_dead_ones_first() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 8))
    flat = sparse_problem(weight, np.ones((20, 8)))
    np.testing.assert_array_equal(CRITERIA["wanda"](flat, PAIRS), CRITERIA["magnitude"](flat, PAIRS))
    x = np.random.default_rng(1).normal(size=(20, 8))
    x[:, [1, 6]] = 0
    for name in ("wanda", "ria", "sparsegpt"):
        assert not CRITERIA[name](sparse_problem(weight, x), PAIRS)[:, [1, 6]].any(), name


def test_on_diagonal_moments_sparsegpt_and_swaps_agree_with_wanda() -> None:
    """Nothing can be made up for by what is independent."""
    weight, scales = np.random.default_rng(0).normal(size=(4, 8)), np.random.default_rng(1).random(8) + 0.5
    one = sparse_problem(weight, np.vstack([np.diag(scales), -np.diag(scales)] * 5), damping=0.0)
    one.seen.held_out.__init__(8, 4)  # type: ignore[misc]
    wanted = CRITERIA["wanda"](one, PAIRS)
    np.testing.assert_array_equal(CRITERIA["sparsegpt"](one, PAIRS), wanted)
    swapped = Methods("magnitude", "swap", "none", 0.0, 0).mask(one, PAIRS)
    np.testing.assert_array_equal(swapped, wanted)


def test_the_variant_gives_rows_shares_of_their_own_and_meets_that_of_the_layer() -> None:
    random = np.random.default_rng(0)
    # One row of equals, one with few that count: by sums, the second loses more of its weights.
    weight = np.vstack([np.ones(40) + 0.01 * random.random(40), np.append(10 * np.ones(4), 0.1 * random.random(36))])
    x = np.random.default_rng(1).choice([-1.0, 1.0], size=(30, 40))
    mask = wanda_variant(sparse_problem(weight, x), HALF)
    gone = (~mask).sum(axis=1)
    assert gone.sum() == 40
    assert gone[1] > gone[0]
    np.testing.assert_array_equal(
        wanda_variant(sparse_problem(weight, x), PAIRS), CRITERIA["wanda"](sparse_problem(weight, x), PAIRS)
    )


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_variant_meets_any_share_exactly(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    weight = random.integers(-3, 4, size=(3, 7)).astype(np.float64)
    one = sparse_problem(weight, random.integers(-1, 2, size=(9, 7)).astype(np.float64))
    pattern = parse_pattern(f"{100 * share:g}%")
    assert isinstance(pattern, Share)
    assert (~wanda_variant(one, pattern)).sum() == int(21 * pattern.share)


def test_pruner_zero_by_hand() -> None:
    """The largest weight goes first, for its gradient is the least."""
    weight, gradient = np.array([[2.0, -1.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0, 5.0]])
    one = sparse_problem(weight, np.ones((10, 4)), gradients=gradients_of(gradient**2))
    np.testing.assert_allclose(pruner_zero.saliency(one), [[0, 0.25, 0.5, 1.0]])
    shifted = sparse_problem(weight, np.ones((10, 4)), gradients=gradients_of((3 * gradient + 7) ** 2))
    np.testing.assert_allclose(pruner_zero.saliency(shifted), [[0, 0.25, 0.5, 1.0]])
    blind = sparse_problem(-weight, np.ones((10, 4)), gradients=gradients_of(gradient**2))
    np.testing.assert_array_equal(pruner_zero.saliency(blind), pruner_zero.saliency(one))
    even = sparse_problem(weight, np.ones((10, 4)), gradients=gradients_of(np.ones((1, 4))))
    np.testing.assert_array_equal(pruner_zero.saliency(even), weight**2)


def test_trees_formulas_and_files_say_the_same(tmp_path: Path) -> None:
    square = {"data": "mul", "left": {"data": "W"}, "right": {"data": "W"}}
    tree = {"data": "mul", "left": {"data": "abs", "left": square}, "right": {"data": "mms", "left": {"data": "G"}}}
    file = tmp_path / "tree.json"
    file.write_text(json.dumps(tree))
    one = _random()
    wanted = CRITERIA["pruner-zero"].saliency(one)
    for text in (json.dumps(tree), str(file), "abs(W*W)*mms(G)", "mul(abs(mul(W, W)), mms(G))", "W^2 * mms(G)"):
        np.testing.assert_allclose(expression(text).saliency(one), wanted)
    np.testing.assert_array_equal(CRITERIA["expr:abs(W)*X"].saliency(one), CRITERIA["wanda"].saliency(one))
    # In a tree, X is the sum of squares.
    np.testing.assert_allclose(
        expression(
            '{"data":"mul","left":{"data":"abs","left":{"data":"W"}},"right":{"data":"sqrt","left":{"data":"X"}}}'
        ).saliency(one),
        CRITERIA["wanda"].saliency(one),
    )


def test_every_operator_of_the_search_space_is_there() -> None:
    one = _random()
    for name in ("sqr", "neg", "abs", "log", "exp", "sqrt", "tanh", "pow2", "skp", "mms", "zsn"):
        assert expression(f"{name}(W)").saliency(one).shape == one.weight.shape
    for name in ("add", "sub", "mul", "div"):
        assert expression(f"{name}(W, G)").saliency(one).shape == one.weight.shape
    assert expression("2*W - 3/X + V^2 - H").needs_data
    assert not expression("abs(W)").needs_data
    assert expression("G*W").needs_gradients


@pytest.mark.parametrize(
    "text",
    ["", "3", "W +", "sin(W)", "W.shape", "Q*W", "mms(W, G)", "{}", '{"data": "W", "left": {"data": "W"}}', "x.json"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"formula|tree"):
        expression(text)


def test_what_is_no_number_is_refused_with_a_name() -> None:
    with pytest.raises(RefusedError, match="not a number for a weight of w"):
        expression("W/(X-X)").saliency(_random())


def test_d_pruner_without_its_pull_is_a_taylor_expansion() -> None:
    one = _random()
    assert one.gradients is not None
    fisher = CRITERIA["fisher"].saliency(one)
    np.testing.assert_allclose(weighed("0").saliency(one), fisher)
    assert not np.allclose(CRITERIA["d-pruner"].saliency(one), fisher, rtol=1e-12)


def test_a_layer_that_reads_nothing_is_judged_by_magnitude() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 8))
    one = sparse_problem(weight, np.zeros((20, 8)))
    found = Methods("sparsegpt", "swap", "least-squares", 0.01, 0)
    assert found.criterion_of(one) == "magnitude"
    np.testing.assert_array_equal(found.mask(one, PAIRS), CRITERIA["magnitude"](one, PAIRS))
    np.testing.assert_array_equal(found.repaired(one, np.ones((4, 8), bool)).matrix, weight)


def test_chance_is_beaten() -> None:
    """Any rule that looks at weights or data keeps more of the output than one that looks at nothing."""
    one = _random(3, rows=20, columns=40)

    def loss(name: str) -> float:
        lost = np.where(CRITERIA[name](one, HALF), 0.0, one.weight)
        return float(np.einsum("rc,cd,rd->", lost, one.gram, lost))

    chance = loss("random")
    for name in ("magnitude", "wanda", "ria", "sketch", "sparsegpt"):
        assert loss(name) < chance, name
    assert loss("wanda") < loss("sketch")
