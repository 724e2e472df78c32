"""Criteria from gradients: gates against differences of the model itself, and what each makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.problems import Seen, problem, random_layer
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch.scores import TorchDifferentiator
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.errors import BackendError
from secateur.passes.context import Context
from secateur.passes.facts import Facts
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.criteria import CRITERIA, FROM_GATES, is_data_free, is_from_gates
from secateur.passes.prune.criteria.fisher_block import Fisher, shrinkage
from secateur.passes.prune.criteria.knowledge import representation
from secateur.passes.prune.facts import dims
from secateur.passes.prune.gates import LEAST, SAMPLES, _by_sample, _Gate, measure
from secateur.passes.prune.units import Units, units_of

pytest.importorskip("torch")

Array = np.ndarray[Any, Any]
NAMES = sorted(FROM_GATES)


def context_of(graph: Graph, feeds: Any, **options: Any) -> Context:
    source = open_source(feeds, **options)
    return Context(Facts(graph), runner=OnnxRuntimeRunner, differentiator=TorchDifferentiator, source=source)


def measured(context: Context, wanted: Callable[[Group], bool]) -> list[tuple[Units, Array | None]]:
    found = context.facts.get(dims)
    units = [units_of(found, group) for group in groups(found) if group.pin is None and wanted(group)]
    return list(zip(units, measure(found, units, context, "a test"), strict=True))


def gates_of(context: Context, name: str) -> Array:
    ((_, found),) = measured(context, lambda group: group.name == name)
    assert found is not None
    return found


def trunk(outputs: int) -> Graph:
    """h = relu(x a + 0.3), y = (h + tanh(h b)) c: the units of h are read twice, and carried past the first reader."""
    graph, random = Graph("trunk"), np.random.default_rng(0)

    def layer(read: Value, name: str, rows: int, columns: int) -> Value:
        weight = add_constant(graph, name, random.normal(size=(rows, columns)).astype(np.float32) / 2)
        return emit(graph, "MatMul", [read, weight]).output

    shift = add_constant(graph, "shift", np.full(6, 0.3, np.float32))
    x = add_input(graph, "x", ("n", 4))
    hidden = emit(graph, "Relu", [emit(graph, "Add", [layer(x, "a", 4, 6), shift]).output]).output
    beside = emit(graph, "Tanh", [layer(hidden, "b", 6, 6)]).output
    made = layer(emit(graph, "Add", [hidden, beside]).output, "c", 6, outputs)
    graph.set_interface(outputs=[made])
    graph.verify()
    return graph


def closed(graph: Graph, factors: Array) -> Graph:
    """The trunk with its units multiplied where they are read."""
    moved = graph.clone()
    for name in ("b", "c"):
        tensor = moved[name].const
        assert tensor is not None
        moved[name].set_const(Tensor((tensor.numpy() * factors[:, None]).astype(np.float32)))
    return moved


def outputs(graph: Graph, feeds: dict[str, Array]) -> Array:
    with OnnxRuntimeRunner(graph) as runner:
        (made,) = runner.run(feeds).values()
    return made.astype(np.float64)


def slopes(graph: Graph, feeds: dict[str, Array], step: float = 1e-2) -> Array:
    """[units, samples, outputs] the derivatives of the outputs with respect to each gate."""
    found = []
    for unit in range(6):
        ways = []
        for sign in (1, -1):
            factors = np.ones(6)
            factors[unit] += sign * step
            ways.append(outputs(closed(graph, factors), feeds))
        found.append((ways[0] - ways[1]) / (2 * step))
    return np.array(found)


def rows(count: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)}


def divergence(p: Array, q: Array) -> float:
    """Mean KL in nats between the beliefs that rows of logits stand for."""
    one, other = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (p, q))
    return float(np.mean(np.sum(np.exp(one) * (one - other), axis=1)))


def test_gates_are_differences_of_the_outputs() -> None:
    """Of numbers of unit variance, F is the product of the slopes; nothing on the trunk counts twice."""
    graph, feeds = trunk(2), rows(8000)
    found = gates_of(context_of(graph, feeds, batch_size=8000), "a:1")
    assert found.shape == (8000, 6)
    moved = slopes(graph, feeds)
    expected = np.einsum("unk,vnk->uv", moved, moved) / 8000
    np.testing.assert_allclose(found.T @ found / 8000, expected, atol=0.06 * np.abs(expected).max())
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=4 * np.sqrt(expected.max() / 8000))


def test_half_the_fisher_information_is_the_divergence_of_small_changes() -> None:
    graph, feeds = trunk(5), rows(8000)
    found = gates_of(context_of(graph, feeds, batch_size=8000), "a:1")
    fisher = found.T @ found / 8000
    dense = outputs(graph, feeds)
    for gone in ([0], [1], [2], [3], [4], [5], [0, 3], [1, 2, 5], [0, 1, 2, 3, 4, 5]):
        factors = np.ones(6)
        factors[gone] -= 0.05
        caused = divergence(dense, outputs(closed(graph, factors), feeds))
        predicted = 0.05**2 / 2 * fisher[np.ix_(gone, gone)].sum()
        assert caused == pytest.approx(predicted, rel=0.12), gone


def test_the_divergence_itself_has_no_slope_where_nothing_has_gone() -> None:
    """Why the loss of prediction is taken for its curvature: all units would be worth nothing."""
    graph, feeds = trunk(5), rows(400)
    dense = outputs(graph, feeds)
    found = gates_of(context_of(graph, feeds, batch_size=400), "a:1")
    curvature = np.square(found).mean(axis=0)
    for unit in range(6):
        ways = []
        for sign in (1, -1):
            factors = np.ones(6)
            factors[unit] += sign * 0.02
            ways.append(divergence(dense, outputs(closed(graph, factors), feeds)))
        assert abs(ways[0] - ways[1]) / 0.04 < 0.03 * curvature[unit]


def test_closing_what_costs_least_costs_least() -> None:
    graph, feeds = trunk(5), rows(2000)
    found = gates_of(context_of(graph, feeds, batch_size=2000), "a:1")
    dense = outputs(graph, feeds)
    costs = {}
    for gone in combinations(range(6), 2):
        factors = np.ones(6)
        factors[list(gone)] = 0
        costs[gone] = divergence(dense, outputs(closed(graph, factors), feeds))
    for name in ("fisher", "fisher-block"):
        ranking = CRITERIA[name](replace(problem(size=6), gates=found), 2)
        chosen = tuple(sorted(ranking.order[:2].tolist()))
        assert sorted(costs.values()).index(costs[chosen]) < 3, name


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "bert-fused", "mixtral", "convnext"])
def test_every_group_has_gates(name: str) -> None:
    graph = zoo("small")[name]()
    context = context_of(graph, [random_feeds(graph, seed) for seed in range(2)])
    roles = Roles(context.facts.get(dims))
    some = measured(context, lambda group: roles.kind(group) is not Kind.HIDDEN and not group.inexact)
    kinds = {roles.kind(units.group) for units, found in some if found is not None and found.any()}
    assert {roles.kind(units.group) for units, _ in some} - kinds <= {Kind.EXPERTS}
    lengths = {len(found) for _, found in some if found is not None}
    assert len(lengths) == 1 and LEAST <= lengths.pop() < SAMPLES + 8
    # Heads and the widths of their values are read in one place: all gates of either open and close it.
    by_kind: dict[Kind, list[Array]] = {}
    for units, gates in some:
        if gates is not None:
            by_kind.setdefault(roles.kind(units.group), []).append(gates.sum(axis=1))
    if name == "bert":
        for heads, widths in zip(by_kind[Kind.HEADS], by_kind[Kind.VALUE_OUTPUT], strict=True):
            np.testing.assert_allclose(heads, widths, rtol=1e-4, atol=1e-6 * np.abs(heads).max())
        assert by_kind[Kind.QUERY_KEY]


def test_rows_that_are_no_samples_are_lumped() -> None:
    rows = np.arange(14.0).reshape(7, 2)
    np.testing.assert_array_equal(_by_sample(rows[:6], _Gate("", 1, True), 3), rows[:6:2] + rows[1:6:2])
    np.testing.assert_array_equal(_by_sample(rows, _Gate("", 1, True), 3), [rows.sum(0), [0, 0], [0, 0]])
    np.testing.assert_array_equal(_by_sample(rows[:1].T, _Gate("", 0, False), 2), [rows[0], [0, 0]])


def test_queries_are_gated_where_they_meet_keys() -> None:
    """s = (x q)(x k)^T, y = s v: the gate of a width is a factor of a column of q."""
    graph, random = Graph("attention"), np.random.default_rng(3)
    x = add_input(graph, "x", ("n", 3, 4))
    q, k = (
        emit(graph, "MatMul", [x, add_constant(graph, name, random.normal(size=(4, 5)).astype(np.float32) / 2)]).output
        for name in "qk"
    )
    turned = emit(graph, "Transpose", [k], {"perm": [0, 2, 1]}).output
    scores = emit(graph, "Softmax", [emit(graph, "MatMul", [q, turned]).output], {"axis": -1}).output
    made = emit(graph, "MatMul", [scores, x]).output
    graph.set_interface(outputs=[emit(graph, "ReduceSum", [made, add_constant(graph, "axes", [2])]).output])
    feeds = {"x": np.random.default_rng(4).normal(size=(6000, 3, 4)).astype(np.float32)}
    found = gates_of(context_of(graph, feeds, batch_size=6000), "q:1")
    expected = np.empty(5)
    for unit in range(5):
        ways = []
        for sign in (1, -1):
            moved = graph.clone()
            weight = moved["q"].const
            assert weight is not None
            factors = np.ones(5, np.float32)
            factors[unit] += sign * 0.01
            moved["q"].set_const(Tensor(weight.numpy() * factors))
            ways.append(outputs(moved, feeds))
        expected[unit] = np.square((ways[0] - ways[1]) / 0.02).sum() / 6000
    np.testing.assert_allclose(np.square(found).mean(axis=0), expected, rtol=0.12)


def some_gates(samples: int = 4000, size: int = 8, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, size)) @ random.normal(size=(size, size)) / 3


def test_greedy_closing_is_that_of_the_whole_matrix() -> None:
    gates = some_gates()
    share = shrinkage(gates)
    matrix = gates.T @ gates / len(gates) / 2
    matrix = np.where(np.eye(8, dtype=bool), matrix, (1 - share) * matrix)
    np.testing.assert_allclose([Fisher(gates).row(unit) for unit in range(8)], matrix)
    order, loss = Fisher(gates).greedy(np.arange(8), 8)
    gone: list[int] = []
    for unit, added in zip(order, loss, strict=True):
        rises = {
            one: matrix[np.ix_([*gone, one], [*gone, one])].sum() - matrix[np.ix_(gone, gone)].sum()
            for one in range(8)
            if one not in gone
        }
        assert unit == min(rises, key=rises.__getitem__) and added == pytest.approx(rises[int(unit)])
        gone.append(int(unit))


def test_swapping_brings_what_goes_near_the_best_there_is() -> None:
    ratios: dict[str, list[float]] = {name: [] for name in ("fisher", "fisher-block", "greedy")}
    for seed in range(40):
        gates = some_gates(seed=seed)
        matrix = np.array([Fisher(gates).row(unit) for unit in range(8)])
        best = min(matrix[np.ix_(gone, gone)].sum() for gone in combinations(range(8), 3))
        given = replace(problem(size=8), gates=gates)
        chosen = {name: CRITERIA[name](given, 3).order[:3] for name in ("fisher", "fisher-block")}
        chosen["greedy"] = Fisher(gates).greedy(np.arange(8), 3)[0]
        for name, gone in chosen.items():
            ratios[name].append(matrix[np.ix_(gone, gone)].sum() / best)
    assert min(ratios["fisher-block"]) >= 1 - 1e-9
    means = {name: np.mean(found) for name, found in ratios.items()}
    assert means["fisher-block"] <= 1.1 and means["fisher-block"] <= means["greedy"] < means["fisher"]


def test_what_is_chance_is_shrunk() -> None:
    random = np.random.default_rng(5)
    assert shrinkage(random.normal(size=(200, 50))) > 0.8
    assert shrinkage(some_gates()) < 0.05
    assert shrinkage(np.ones((1, 3))) == 1.0 and shrinkage(np.zeros((5, 3))) == 1.0
    gates = some_gates(30, 4)
    products = gates[:, :, None] * gates[:, None]
    off = ~np.eye(4, dtype=bool)
    expected = (products.var(axis=0, ddof=1)[off] / 30).sum() / np.square(products.mean(axis=0)[off]).sum()
    assert shrinkage(gates) == pytest.approx(min(1.0, expected))


@pytest.mark.parametrize(
    ("unit", "taps"), [([0, 1, 2, 3], 1), ([0, 0, 1, 1, 2, 2], 1), ([2, -1, 0, 0, 1], 3)], ids=["one", "two", "ragged"]
)
def test_representation_is_what_units_add(unit: list[int], taps: int) -> None:
    layer, size = random_layer(1, unit, taps=taps), max(unit) + 1
    found = representation(layer.layer, size)
    for one in range(size):
        inside = layer.layer.column_unit == one
        added = layer.x[:, inside] @ layer.layer.matrix[:, inside].T
        assert found[one] == pytest.approx(np.square(added).mean())


def given_with(*layers: Seen, gates: Array) -> Any:
    return replace(problem(*layers, size=gates.shape[1]), gates=gates)


def test_knowledge_weighs_both_losses() -> None:
    layer, gates = random_layer(2, range(8)), some_gates(40)
    given = given_with(layer, gates=gates)
    prediction, kept = np.square(gates).mean(axis=0) / 2, representation(layer.layer, 8)
    for name, weight in (("knowledge", 2.5e-4), ("knowledge:1e-5", 1e-5), ("knowledge:0.5", 0.5)):
        found = CRITERIA[name](given, 7)
        np.testing.assert_allclose(found.loss, np.sort(prediction + weight * kept))
    assert CRITERIA["knowledge:0"](given, 7).order.tolist() == CRITERIA["fisher"](given, 7).order.tolist()
    for text in ("much", "-1", "nan", "inf", ""):
        with pytest.raises(ValueError, match="weight of representation"):
            CRITERIA.check(f"knowledge:{text}")


def test_taylor_is_the_mean_size_of_gradients() -> None:
    gates = some_gates(40)
    found = CRITERIA["taylor"](given_with(gates=gates), 7)
    np.testing.assert_allclose(found.loss, np.sort(np.abs(gates).mean(axis=0)))


@pytest.mark.parametrize("name", [*NAMES, "knowledge:0.1"])
def test_numbering_units_otherwise_changes_nothing_else(name: str) -> None:
    gates, other = some_gates(60), np.random.default_rng(6).permutation(8)
    found = CRITERIA[name](given_with(gates=gates), 4)
    renamed = CRITERIA[name](given_with(gates=gates[:, np.argsort(other)]), 4)
    assert other[found.order].tolist() == renamed.order.tolist()
    np.testing.assert_allclose(found.loss, renamed.loss)
    assert len(CRITERIA[name](given_with(gates=gates), 0).kept(8, 8)) == 8
    assert sorted(CRITERIA[name](given_with(gates=gates), 8).order.tolist()) == list(range(8))
    assert is_from_gates(name) and not is_data_free(name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("allocation", ["uniform", "global", "threshold"])
def test_networks_are_pruned_by_them(name: str, allocation: str) -> None:
    graph = Net().conv(8).norm().op("Relu").conv(6).op("MaxPool", kernel_shape=[3, 3], strides=[2, 2])
    graph = graph.op("Flatten").gemm(24, 5, True).done()
    feeds = {"x": np.random.default_rng(1).normal(size=(12, 3, 9, 9)).astype(np.float32)}

    def kept(ratio: float) -> list[Any]:
        text = f"prune{{ratio={ratio}, align=1, positions=0, criterion={name}, allocation={allocation}}}"
        result = run_pipeline(graph, parse_pipeline(text), context_of(graph, feeds, batch_size=6))
        return [row["kept"] for row in result.report.entries[0].rows]

    assert kept(0.0) == []
    found = kept(0.5)
    assert found and all(one < 8 for one in found) and found == kept(0.5)


def test_without_gradients_it_is_refused() -> None:
    graph = Net().conv(8).op("Relu").conv(6).done()
    context = Context(runner=OnnxRuntimeRunner, source=open_source(random_feeds(graph, 0)))
    with pytest.raises(BackendError, match="criterion=fisher needs gradients"):
        run_pipeline(graph, parse_pipeline("prune{criterion=fisher}"), context)
