"""`mix-precision`: budgets that are never exceeded, choices that are the best, and one clear error for each mistake."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.graphs import packed_heads
from helpers.sparse_problems import satisfies

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Source
from secateur.calib.output_error import Answers, meanings
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, RefusedError, TextError
from secateur.ir.known_targets import find_target
from secateur.ir.rules.known import Known
from secateur.ir.sizes import with_sizes
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.facts import Facts
from secateur.passes.layers.answers import some_samples
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.mix import mix
from secateur.passes.mix.apply import put_into_effect
from secateur.passes.mix.budget import Budget
from secateur.passes.mix.candidates import candidates
from secateur.passes.mix.costs import Device, byte_costs, latency_costs, total_bytes
from secateur.passes.mix.importance import layer_information
from secateur.passes.mix.options import KEEP, Option
from secateur.passes.mix.plan import ALLOCATORS, Shelf, meet_error
from secateur.passes.mix.refine import Search, refined
from secateur.passes.mix.trials import Trials
from secateur.passes.pipeline import make_pass, parse_pipeline
from secateur.passes.report import Size


def _net(seed: int = 7) -> Graph:
    """Two convolutions, a pool and two products: sizes for 2:4 and for blocks of int4; ten classes."""
    net = Net(16, 8)
    net.random = np.random.default_rng(seed)
    net.conv(32).op("Relu").conv(32).op("Relu").op("GlobalAveragePool").op("Flatten")
    return net.gemm(32, 64, True).op("Relu").gemm(64, 10, True).done()


def _source(count: int = 32, seed: int = 0) -> Source:
    images = np.random.default_rng(seed).normal(size=(count, 16, 8, 8)).astype(np.float32)
    return open_source({"x": images}, batch_size=8)


def _mix(options: str, graph: Graph | None = None, seed: int = 0) -> Result:
    context = Context(runner=OnnxRuntimeRunner, source=_source(), seed=seed)
    return run_pipeline(graph or _net(), parse_pipeline(f"mix-precision{{rounding=nearest, {options}}}"), context)


def _error(graph: Graph, changed: Graph) -> float:
    context = Context(runner=OnnxRuntimeRunner, source=_source())
    return Answers(some_samples(graph, 64, context, "a test"), meanings(known(graph)), OnnxRuntimeRunner).error(changed)


def _chosen(result: Result) -> dict[str, str]:
    return {str(row["weight"]): str(row["chosen"]) for row in result.report.entries[-1].rows}


@pytest.mark.parametrize("allocation", ["knapsack", "greedy"])
def test_bytes_are_never_exceeded_and_more_of_them_lose_less(allocation: str) -> None:
    graph, losses = _net(), []
    now = Size.of(graph).bytes
    for share in (0.26, 0.3, 0.4, 0.6, 0.8, 1.0):
        result = _mix(f"budget=bytes:{share}, allocation={allocation}", graph)
        assert Size.of(result.graph).bytes <= share * now
        losses.append(sum(float(row["sensitivity"] or 0) for row in result.report.entries[-1].rows))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(losses))
    assert losses[0] > losses[-1] == 0
    assert set(_chosen(result).values()) == {"float"} and result.report.rewrites == 0


def test_an_absolute_budget_counts_bytes() -> None:
    result = _mix("budget=bytes:30k")
    assert Size.of(result.graph).bytes <= 30_000


def test_packed_bytes_take_zeros_and_what_is_promised_is_there() -> None:
    """Below what int8 takes: 2:4 and int8 together."""
    graph = _net()
    result = _mix("budget=packed:0.2, options=[int8, 2:4, 2:4+int8]", graph)
    assert total_bytes(result.graph, packed=True) <= 0.2 * Size.of(graph).bytes
    chosen = _chosen(result)
    assert "2:4+int8" in chosen.values()
    sparse = {name for name, option in chosen.items() if option.startswith("2:4")}
    assert set(result.manifest.masks) == sparse == set(result.manifest.schemes)
    for name in sparse:
        codes = result.graph[f"{name}_quantized"].const
        assert codes is not None and satisfies(codes.numpy(), 2, 4, 1)


def test_a_plan_costs_what_was_counted() -> None:
    """For every option of every layer, one at a time: bytes as counted, but for the scales of sums."""
    graph = _net()
    context = Context(runner=OnnxRuntimeRunner, source=_source())
    options = tuple(map(Option.parse, ("float", "int8", "int4", "fp8", "int8-block", "2:4", "2:4+int8")))
    chosen = candidates(known(graph), options, context)
    assert [len(one.options) for one in chosen] == [5, 5, 7, 5]
    means = make_pass("mix-precision")._means()  # type: ignore[attr-defined]
    trials = Trials.of(graph, meanings(known(graph)), 8, means, context)
    for packed in (False, True):
        costs = byte_costs(graph, chosen, packed=packed)
        assert costs.now == Size.of(graph).bytes
        for one, row in zip(chosen, costs.options, strict=True):
            for option, cost in zip(one.options, row, strict=True):
                made = trials.graph_of({one.candidate.name: option} if option != KEEP else {})
                extra = total_bytes(made, packed=packed) - (costs.now - row[0] + cost)
                # Sparse layers have what they give quantized, too.
                assert abs(extra) <= 8 or (option.sparse and 0 <= extra <= 16), (one.candidate.name, str(option))


def test_a_weight_that_others_read_stays_in_the_file() -> None:
    """Codes come on top of the floats: there is nothing to gain."""
    graph = Graph()
    x = add_input(graph, "x", ["n", 64])
    shared = add_constant(graph, "w", np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))
    doubled = emit(graph, "MatMul", [x, emit(graph, "Tanh", [shared]).output]).output
    graph.set_interface(outputs=[emit(graph, "Add", [emit(graph, "MatMul", [x, shared]).output, doubled]).output])
    context = Context(runner=OnnxRuntimeRunner)
    (chosen,) = candidates(known(graph), (Option.parse("int8"), Option.parse("int4")), context)
    (row,) = byte_costs(graph, [chosen], packed=False).options
    assert row[0] == 4 * 64 * 64 and all(cost > row[0] for cost in row[1:])


def test_an_error_is_kept_and_less_error_costs_more() -> None:
    graph, sizes = _net(), []
    for limit in (1e-5, 1e-2):
        result = _mix(f"budget=error:{limit}", graph)
        assert _error(graph, result.graph) <= limit
        sizes.append(total_bytes(result.graph, packed=True))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]


def test_latency_by_the_roofline() -> None:
    graph = _net()
    context = Context(runner=OnnxRuntimeRunner, source=_source())
    chosen = candidates(known(graph), tuple(map(Option.parse, ("int8", "int4", "2:4+int8"))), context)
    sized = with_sizes(graph, {"x": (1, 16, 8, 8)})
    costs = latency_costs(known(sized), chosen, Device(find_target("l4")))
    for row in costs.options:
        assert all(0 < cost <= row[0] for cost in row)
    fastest = costs.rest + sum(min(row) for row in costs.options)
    share = (fastest / costs.now + 1) / 2
    result = _mix(f"budget=latency:{share:.6f}, target=l4", graph)
    picked = {one.candidate.name: one for one in chosen}
    spent = costs.rest
    for row, one in zip(costs.options, chosen, strict=True):
        named = [str(option) for option in picked[one.candidate.name].options]
        said = _chosen(result)[one.candidate.name]
        spent += row[named.index(said)] if said in named else row[0]
    assert spent <= share * costs.now * (1 + 1e-6)
    with pytest.raises(RefusedError, match="cannot be met"):
        _mix(f"budget=latency:{fastest / costs.now * 0.9:.6f}, target=l4", graph)


@pytest.mark.parametrize("quick", ["first", "second"])
def test_latency_by_a_table_that_was_measured(quick: str, tmp_path: Path) -> None:
    """Two layers of as many weights: int8 goes to the one that the table says it makes faster."""
    graph, random, entries = Graph(), np.random.default_rng(0), []
    x = add_input(graph, "x", ["n", 64])
    for name, inputs, outputs in (("first", 64, 128), ("second", 128, 64)):
        weight = add_constant(graph, name, random.normal(size=(inputs, outputs)).astype(np.float32))
        x = emit(graph, "MatMul", [x, weight]).output
        sizes = {"rows": 1, "inputs": inputs, "outputs": outputs}
        for form in ("tf32", "int8"):
            time = 10.0 if (form, name) == ("int8", quick) else 1000.0
            entries.append({"format": form, **sizes, "dense": time, "sparse": time})
    graph.set_interface(outputs=[x])
    table = tmp_path / "times.json"
    table.write_text(json.dumps({"device": "toy", "times": entries}))
    data = random.normal(size=(16, 64)).astype(np.float32)
    context = Context(runner=OnnxRuntimeRunner, source=open_source({"x": data}, batch_size=8))
    text = f'mix-precision{{budget=latency:0.6,options=[int8],target=l4,times="{table}"}}'
    result = run_pipeline(graph, parse_pipeline(text), context)
    assert [name for name, chosen in _chosen(result).items() if chosen == "int8"] == [quick]


def test_first_and_last_layers_fall_out_of_sensitivity() -> None:
    """The layer whose rounding the answers feel most keeps its bits, wherever it lies."""
    result = _mix("budget=bytes:0.4, options=[int8]")
    rows = result.report.entries[-1].rows
    quantized = [row for row in rows if row["chosen"] == "int8"]
    assert quantized and len(quantized) < len(rows)
    assert all(float(row["after"] or 0) < float(row["before"] or 0) for row in quantized)


def test_two_runs_give_the_same() -> None:
    first, second = (_mix("budget=packed:0.3, importance=mi") for _ in range(2))
    assert str(first.graph) == str(second.graph)
    assert first.report.to_json(timing=False) == second.report.to_json(timing=False)


def test_the_manifest_is_kept_and_read_again(tmp_path: Path) -> None:
    result = _mix("budget=packed:0.2, options=[int8, 2:4+int8]")
    result.manifest.save(tmp_path / "manifest.json")
    again = Manifest.load(tmp_path / "manifest.json")
    assert not again.exact and set(again.scales) == {
        name for name, option in _chosen(result).items() if "int8" in option
    }


@pytest.mark.parametrize("allocation", sorted(ALLOCATORS))
def test_a_separable_objective_is_solved(allocation: str) -> None:
    """Against every choice there is; the greedy one may miss by a step, the knapsack must not."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        costs = [tuple(sorted(random.integers(1, 40, 3).tolist(), reverse=True)) for _ in range(5)]
        losses = [tuple(sorted(random.random(3).tolist())) for _ in range(5)]
        shelf = Shelf(losses, costs, ALLOCATORS[allocation])
        limit = shelf.least() + float(random.integers(0, 60))
        best = min(shelf.loss(choice) for choice in product(range(3), repeat=5) if shelf.cost(choice) <= limit)
        found = shelf.within_cost(limit)
        assert shelf.cost(found) <= limit and shelf.loss(found) >= best - 1e-12
        if allocation == "knapsack":
            assert shelf.loss(found) == pytest.approx(best)


def test_of_equal_importance_small_layers_keep_their_bits_first() -> None:
    """A step up costs less there."""
    shelf = Shelf([(0.0, 1.0)] * 3, [(4.0, 1.0), (8.0, 2.0), (16.0, 4.0)], ALLOCATORS["knapsack"])
    assert [shelf.within_cost(limit) for limit in (7.0, 10.0, 16.0, 28.0)] == [
        (1, 1, 1),
        (0, 1, 1),
        (0, 0, 1),
        (0, 0, 0),
    ]


def test_an_option_that_breaks_the_model_is_never_taken() -> None:
    shelf = Shelf([(0.0, math.inf, 1.0)], [(8.0, 1.0, 4.0)], ALLOCATORS["knapsack"])
    assert shelf.within_cost(5.0) == (2,) and shelf.least() == 4 and shelf.within_loss(10.0) == (2,)


def test_error_limits_move_until_all_together_holds() -> None:
    """Layers that make each other worse: the sum of losses is a third of what comes of it."""
    losses = [(0.0, 0.1 * (k + 1)) for k in range(6)]
    shelf = Shelf(losses, [(2.0, 1.0)] * 6, ALLOCATORS["knapsack"])
    found = meet_error(shelf, 0.95, lambda choice: 3 * shelf.loss(choice))
    assert 3 * shelf.loss(found[0]) <= 0.95 and shelf.cost(found[0]) == 10 and found[-1] == (0,) * 6
    assert [shelf.cost(one) for one in found] == sorted(shelf.cost(one) for one in found)


def test_trials_find_what_layers_one_by_one_do_not_show() -> None:
    """Three layers of two options, eight plans, at most eight trials (QPruner, stage 3)."""
    pytest.importorskip("optuna")
    shelf = Shelf([(0.0, 1.0), (0.0, 1.1), (0.0, 1.2)], [(2.0, 1.0)] * 3, ALLOCATORS["knapsack"])
    worth = {choice: -abs(sum(choice) - 2) - (choice != (0, 1, 1)) for choice in product(range(2), repeat=3)}
    tried: list[tuple[int, ...]] = []

    def score(choice: tuple[int, ...]) -> float:
        tried.append(choice)
        return float(worth[choice])

    for seed in range(2):
        tried.clear()
        search = Search(3, lambda factors: shelf.within_cost(4.0, factors), score, 8, seed)
        best, scores = refined(search)
        assert best == (0, 1, 1) and len(tried) == len(scores) <= 8
        assert all(shelf.cost(choice) <= 4 for choice in tried)
        assert refined(search) == (best, scores)


def test_trials_never_end_worse_than_they_began() -> None:
    pytest.importorskip("optuna")
    graph = _net()
    plain, tried = (_mix(f"budget=packed:0.25, trials={count}", graph) for count in (0, 4))
    assert _error(graph, tried.graph) <= _error(graph, plain.graph) * (1 + 1e-9)
    assert total_bytes(tried.graph, packed=True) <= 0.25 * Size.of(graph).bytes


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(BackendError, match="optuna") as caught:
        _mix("trials=2")
    assert "secateur[mix]" in str(caught.value.hint)


def test_a_metric_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says counts, not what the answers say: here, that late layers are quantized, and early ones are not."""
    pytest.importorskip("optuna")
    seen: list[float] = []

    def late(graph: Graph, runner: object = None) -> float:
        kinds = [op.op_type for op in graph.ops() if op.op_type in ("Conv", "QuantizeLinear")]
        seen.append(float(sum(place for place, kind in enumerate(kinds) if kind == "QuantizeLinear")))
        return seen[-1]

    monkeypatch.setattr(mix, "METRICS", _Metrics({"late": late}))
    net = Net(16, 8)
    for _ in range(6):
        net.conv(16, 1).op("Relu")
    graph = net.op("GlobalAveragePool").op("Flatten").gemm(16, 10, True).done()
    result = _mix("budget=bytes:0.7, options=[int8], trials=8, metric=late", graph)
    assert Size.of(result.graph).bytes <= 0.7 * Size.of(graph).bytes
    tried = list(seen)
    assert len(set(tried)) > 1 and late(result.graph) == max(tried)


class _Metrics(dict[str, Callable[..., float]]):
    def check(self, name: str) -> None:
        assert name in self


def test_information_tells_layers_that_matter_from_others() -> None:
    """A branch that is multiplied by nearly nothing tells nothing of the answers."""
    graph = Graph()
    x = add_input(graph, "x", ["n", 8])
    random = np.random.default_rng(0)
    useful, useless = (
        emit(graph, "MatMul", [x, add_constant(graph, name, random.normal(size=(8, 16)).astype(np.float32))]).output
        for name in ("useful", "useless")
    )
    faint = emit(graph, "Mul", [useless, add_constant(graph, "faint", np.float32(1e-6))]).output
    graph.set_interface(outputs=[emit(graph, "Add", [useful, faint]).output])
    source = open_source({"x": random.normal(size=(4096, 8)).astype(np.float32)}, batch_size=512)
    context = Context(runner=OnnxRuntimeRunner, source=source)
    chosen = candidates(Known(graph, known(graph).types), (Option.parse("int8"),), context)
    means = make_pass("mix-precision")._means()  # type: ignore[attr-defined]
    trials = Trials.of(graph, meanings(known(graph)), 8, means, context)
    high, low = layer_information(trials, [one.candidate for one in chosen])
    assert high.nats > 1.0 and low.corrected < 0.3 * high.corrected


def test_a_remark_on_a_weight_is_no_reason_for_it_to_have_no_choice() -> None:
    graph, context = packed_heads(), Context()
    chosen = candidates(known(graph), (KEEP, Option.parse("int8")), context)
    assert [one.candidate.name for one in chosen] == ["w"]
    assert context.report.notes == []


def test_names_are_names_and_no_globs() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 32])
    for name in ("a[0]", "a0"):
        x = emit(graph, "MatMul", [x, add_constant(graph, name, np.eye(32, dtype=np.float32))]).output
    graph.set_interface(outputs=[x])
    means = make_pass("mix-precision")._means()  # type: ignore[attr-defined]
    assert set(put_into_effect(graph, {"a[0]": Option.parse("int8-block")}, means, Context(facts=Facts(graph)))) == {
        "a[0]"
    }


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("options=[int9]", "no number format 'int9'"),
        ("options=[1:4]", "2:4"),
        ("options=[]", "at least one"),
        ("options=[int8+2:4]", "2:4"),
        ("budget=macs:0.5", "bytes, packed, latency, error"),
        ("budget=bytes:0", "above 0"),
        ("budget=error:x", "above 0"),
        ("budget=latency:0.5", "target"),
        ("budget=error:0.1, importance=mi", "sensitivity"),
        ("metric=nothing", "metric"),
        ("samples=0", "at least 1"),
        ("options=[nvfp4]", "TensorRT alone"),
        ("options=[nvfp4], importance=mi, trials=2", "TensorRT alone"),
        ("clip=none", "clip"),
        ("rounding=up", "rounding"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(options: str, what: str) -> None:
    with pytest.raises(TextError, match=what):
        parse_pipeline(f"mix-precision{{{options}}}")


def test_a_budget_that_cannot_be_met_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(RefusedError, match="cannot be met") as caught:
        _mix("budget=bytes:0.05")
    assert "bytes are left" in str(caught.value) and caught.value.hint


def test_zeros_alone_make_no_file_smaller() -> None:
    with pytest.raises(RefusedError, match="no fewer bytes") as caught:
        _mix("budget=bytes:0.5, options=[2:4]")
    assert "packed" in str(caught.value.hint)


def test_formats_of_tensorrt_alone_go_by_information() -> None:
    """Nothing here runs them, and nothing has to."""
    graph = Graph("products")
    value = add_input(graph, "x", ["n", 16, 8, 64])
    for _ in range(3):
        weight = np.random.default_rng(len(graph.ops())).normal(size=(64, 64)).astype(np.float32)
        value = emit(graph, "Relu", [emit(graph, "MatMul", [value, add_constant(graph, "w", weight)]).output]).output
    graph.set_interface(outputs=[value])
    source = open_source({"x": np.random.default_rng(0).normal(size=(8, 16, 8, 64)).astype(np.float32)}, batch_size=4)
    passes = parse_pipeline("mix-precision{budget=bytes:0.2, options=[int8, nvfp4], importance=mi}")
    result = run_pipeline(graph, passes, Context(runner=OnnxRuntimeRunner, source=source))
    assert Size.of(result.graph).bytes <= 0.2 * Size.of(graph).bytes
    assert set(_chosen(result).values()) == {"int8", "nvfp4"}
    assert any("cells hold some" in note for note in result.report.entries[-1].notes)


def test_without_data_it_says_so() -> None:
    with pytest.raises(DataError, match="mix-precision needs calibration data"):
        run_pipeline(_net(), parse_pipeline("mix-precision"), Context(runner=OnnxRuntimeRunner))


def test_budgets_are_read() -> None:
    read: Callable[[str], Budget] = Budget.parse
    assert read("bytes:0.5").allowed(100) == 50 and read("packed:2k").allowed(100) == 2000
    assert read("latency:2ms").allowed(100) == 2 and read("error:0.01").error == 0.01
