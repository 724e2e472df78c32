"""Comparing: figures against their formulas, the value where two graphs part, sizes, times, and honest refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.graphs import random_feeds, tiny_graphs
from hypothesis import given
from hypothesis import strategies as st

from secateur.backends.compare import CompareOptions, Comparison, compare, graph_size, match_outputs
from secateur.backends.difference import ClassDifference, Difference
from secateur.backends.divergence import DivergenceOptions, find_divergence
from secateur.backends.latency import latency
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError, GraphError
from secateur.ir.onnx_write import to_bytes


def exact(graph: Graph, **part: Any) -> Any:
    return OnnxRuntimeRunner(graph, optimize=False, threads=1, **part)


def classifier(classes: int = 8, seed: int = 0) -> Graph:
    random = np.random.default_rng(seed)
    graph = Graph("classifier")
    value = add_input(graph, "x", ("n", 6))
    for index, (rows, columns) in enumerate(((6, 10), (10, 10), (10, classes))):
        weight = add_constant(graph, f"w{index}", random.normal(size=(rows, columns)).astype(np.float32))
        value = emit(graph, "MatMul", [value, weight], outputs=(f"y{index}",)).output
        value = emit(graph, "Relu", [value], outputs=(f"z{index}",)).output if index < 2 else value
    graph.set_interface(outputs=[value])
    return graph


def change(graph: Graph, name: str, factor: float = 1.0, shift: float = 0.0) -> Graph:
    changed = graph.clone()
    tensor = changed[name].const
    assert tensor is not None
    changed[name].set_const(Tensor((tensor.numpy() * factor + shift).astype(np.float32)))
    return changed


def batches(count: int = 3, size: int = 5) -> list[Batch]:
    random = np.random.default_rng(1)
    return [Batch({"x": random.normal(size=(size, 6)).astype(np.float32)}) for _ in range(count)]


def outputs(graph: Graph) -> Any:
    with exact(graph) as runner:
        return np.concatenate([runner.run(batch.feeds)[graph.outputs[0].name] for batch in batches()])


# ---- figures -------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from(["float32", "float16", "int8", "bfloat16"]))
def test_the_figures_are_their_formulas_however_the_data_is_cut(seed: int, pieces: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    a, b = ((random.normal(size=(12, 3)) * 5).astype(kind) for _ in range(2))
    found = Difference()
    for one, other in zip(np.array_split(a, pieces), np.array_split(b, pieces), strict=True):
        found.update(one, other)
    a, b = a.astype(np.float64), b.astype(np.float64)
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)))
    assert found.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert found.max_abs == np.abs(a - b).max()
    assert found.mean_abs == pytest.approx(np.abs(a - b).mean())
    assert found.cosine == pytest.approx(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    assert found.max_relative == pytest.approx((np.abs(a - b) / np.maximum(np.abs(a), 1e-6)).max())
    assert found.agreement == pytest.approx((a == b).mean())
    assert found.elements == 36


def test_a_relative_error_of_a_hundredth_is_forty_decibels() -> None:
    a = np.random.default_rng(0).normal(size=1000)
    found = Difference()
    found.update(a, a * 1.01)
    assert found.sqnr_db == pytest.approx(40) and found.cosine == pytest.approx(1)


def test_no_difference_no_signal_and_nothing_at_all() -> None:
    same, silent, nothing = Difference(), Difference(), Difference()
    same.update(np.ones(3), np.ones(3))
    silent.update(np.zeros(3), np.ones(3))
    assert (same.sqnr_db, same.relative, same.cosine, same.agreement) == (math.inf, 0, 1, 1)
    assert (silent.sqnr_db, silent.relative, silent.cosine, silent.agreement) == (-math.inf, math.inf, 0, 0)
    assert (nothing.sqnr_db, nothing.cosine, nothing.agreement, nothing.mean_abs) == (math.inf, 1, 1, 0)
    with pytest.raises(ValueError, match="shapes differ"):
        same.update(np.ones(3), np.ones((3, 1)))


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    found = Difference()
    found.update(np.array([1, np.nan, np.inf, 2]), np.array([1, np.nan, np.inf, 3]))
    assert (found.nonfinite_a, found.nonfinite_b, found.equal, found.max_abs) == (2, 2, 3, 1)
    assert found.relative == pytest.approx(np.sqrt(1 / 5))
    found.update(np.array([1.0]), np.array([np.nan]))
    assert found.nonfinite_b == 3 and found.relative == math.inf


def test_large_integers_are_compared_exactly() -> None:
    found = Difference()
    found.update(np.array([2**60, 5]), np.array([2**60 + 1, 5]))
    assert found.equal == 1
    words = Difference()
    words.update(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert words.agreement == 0.5


def brute_classes(a: Any, b: Any) -> tuple[float, float, float]:
    top1 = np.mean([np.argmax(x) == np.argmax(y) for x, y in zip(a, b, strict=True)])
    top5 = np.mean([np.argmax(x) in np.argsort(-y)[:5] for x, y in zip(a, b, strict=True)])
    p, q = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) for scores in (a, b))
    return float(top1), float(top5), float(np.mean(np.sum(p * np.log(p / q), axis=1)))


@given(st.integers(0, 2**32 - 1))
def test_class_figures_equal_their_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, 9, 12)) * 2
    expected = brute_classes(a, b)
    for transform in (lambda scores: scores, lambda scores: np.exp(scores) / np.exp(scores).sum(1, keepdims=True)):
        found = ClassDifference()
        found.update(transform(a[:4]), transform(b[:4]))
        found.update(transform(a[4:]), transform(b[4:]))
        assert (found.top1, found.top5, found.divergence) == pytest.approx(expected)
        assert found.divergence >= 0 and found.accuracy is None


def test_rows_that_are_not_finite_agree_with_nothing() -> None:
    a = np.array([[1.0, 2.0], [1.0, 2.0]])
    found = ClassDifference()
    found.update(a, np.array([[1.0, 2.0], [np.nan, 2.0]]), np.array([1, 1]))
    assert (found.top1, found.top5, found.divergence, found.accuracy) == (0.5, 0.5, 0, (1, 0.5))


# ---- comparing graphs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(tiny_graphs()))
def test_a_graph_does_not_differ_from_itself(name: str) -> None:
    graph = tiny_graphs()[name]()
    source = open_source([random_feeds(graph, seed) for seed in range(2)])
    found = compare(graph, graph.clone(), source, exact, CompareOptions(inner=DivergenceOptions()))
    assert found.batches == 2 and not found.unmatched and found.size_a == found.size_b
    for output in found.outputs:
        assert output.agreement == 1 and output.sqnr_db == math.inf and output.top1 in (None, 1)
    assert found.inner is not None and found.inner.first_jump is None and not found.inner.incomparable
    assert {value.after for value in found.inner.values} <= {0}
    json.dumps(found.to_json(), allow_nan=False)


def compared(graph_b: Graph, options: CompareOptions = CompareOptions()) -> Comparison:  # noqa: B008
    return compare(classifier(), graph_b, open_source(batches()), exact, options)


def test_outputs_and_accuracy_are_those_of_all_batches_together() -> None:
    changed = change(classifier(), "w1", shift=0.3)
    a, b = outputs(classifier()), outputs(changed)
    labels = a.argmax(axis=1)
    labels[3] += 1
    found = compared(changed, CompareOptions(labels=labels))
    (output,) = found.outputs
    top1, top5, divergence = brute_classes(a.astype(np.float64), b.astype(np.float64))
    assert (output.top1, output.top5, output.divergence) == pytest.approx((top1, top5, divergence))
    assert output.sqnr_db == pytest.approx(10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2)), rel=1e-5)
    assert output.accuracy_a == pytest.approx(14 / 15)
    assert output.accuracy_b == pytest.approx(np.mean(b.argmax(axis=1) == labels))
    (row,) = found.output_rows()
    assert row["accuracy"].startswith("93.33% / ") and row["top-1"] == f"{top1:.2%}" and "NaN or inf" not in row
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["outputs"][0]["top1"] == output.top1


def test_outputs_are_matched_by_name_then_by_position() -> None:
    def graph(*names: str) -> Graph:
        made = Graph("g")
        x = add_input(made, "x", ("n", 6))
        made.set_interface(outputs=[emit(made, "Relu", [x], outputs=(name,)).output for name in names])
        return made

    pairs, alone = match_outputs(graph("a", "b", "c", "d"), graph("c", "e", "f", "a"))
    assert [(a.name, b.name) for a, b in pairs] == [("a", "a"), ("b", "e"), ("c", "c"), ("d", "f")] and not alone
    pairs, alone = match_outputs(graph("a", "b"), graph("z", "b", "y"))
    assert [(a.name, b.name) for a, b in pairs] == [("a", "z"), ("b", "b")] and alone == ("y",)
    pairs, alone = match_outputs(graph("a", "b"), graph("b"))
    assert [(a.name, b.name) for a, b in pairs] == [("b", "b")] and alone == ("a",)
    with pytest.raises(GraphError, match="no outputs to compare"):
        match_outputs(graph("a"), graph())
    found = compare(graph("a"), graph("z"), open_source(batches()), exact)
    assert found.output_rows()[0]["output"] == "a / z"


def test_integer_outputs_are_compared_exactly() -> None:
    def best(graph: Graph) -> Graph:
        graph.set_interface(outputs=[emit(graph, "ArgMax", [graph["y2"]], {"axis": 1}, outputs=("best",)).output])
        return graph

    changed = best(change(classifier(), "w1", shift=0.3))
    found = compare(best(classifier()), changed, open_source(batches()), exact)
    (output,) = found.outputs
    a, b = outputs(best(classifier())), outputs(changed)
    assert output.type == "i64" and output.top1 is None
    assert output.agreement == pytest.approx(np.mean(a == b)) and 0 < output.agreement < 1


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(GraphError, match=r"'y2' has shape \[5, 8\] in the one and \[5, 9\]"):
        compared(classifier(9))
    other = classifier()
    other.rename(other["x"], "image")
    with pytest.raises(GraphError, match="take different inputs: x; and image"):
        compared(other)
    with pytest.raises(DataError, match="14 labels for 15 samples"):
        compared(classifier(), CompareOptions(labels=np.zeros(14, np.int64)))
    with pytest.raises(DataError, match=r"labels are float64\[15\]"):
        compared(classifier(), CompareOptions(labels=np.zeros(15)))
    with pytest.raises(DataError, match="nothing to compare on"):
        compare(classifier(), classifier(), _Empty(), exact)


class _Empty:
    def __iter__(self) -> Any:
        return iter(())


# ---- where they part -----------------------------------------------------------------------------------------------


def test_the_first_op_that_goes_wrong_is_named() -> None:
    for index in range(3):
        changed = change(classifier(), f"w{index}", shift=0.5)
        found = compared(changed, CompareOptions(inner=DivergenceOptions())).inner
        assert found is not None and found.first_jump is not None
        assert found.first_jump.value == f"y{index}" and found.first_jump.before == 0 < found.first_jump.after
        assert found.first_jump.op.startswith("MatMul")
        assert [value.value for value in found.values] == ["y0", "z0", "y1", "z1", "y2"]
        assert found.first_jump.sqnr_db == pytest.approx(-20 * np.log10(found.first_jump.after))


def test_an_error_that_is_only_passed_on_is_no_jump() -> None:
    slightly = change(classifier(), "w0", factor=1.05)  # 5 percent everywhere: below the threshold
    worse = change(slightly, "w2", factor=2)

    def jump(graph: Graph, **options: Any) -> str | None:
        found = find_divergence(classifier(), graph, open_source(batches()), exact, DivergenceOptions(**options))
        return found.first_jump and found.first_jump.value

    assert jump(slightly) is None
    assert jump(worse) == "y2"
    assert jump(worse, threshold=0.01) == "y0"
    assert jump(worse, factor=50) is None


def test_bounded_memory_gives_the_same_and_reshaped_values_are_set_apart() -> None:
    graph = tiny_graphs()["residual"]()
    changed = change(graph, "b1.weight", shift=0.5)
    source = open_source([random_feeds(graph, seed) for seed in range(2)])
    results = [
        find_divergence(graph, changed, source, exact, DivergenceOptions(memory_limit=limit)) for limit in (1, 1 << 30)
    ]
    assert results[0] == results[1] and results[0].first_jump is not None

    wider = classifier()
    weights = [wider[f"w{index}"].const for index in range(3)]
    for index, axis in ((0, 1), (1, 0)):
        tensor = weights[index]
        assert tensor is not None
        wider[f"w{index}"].set_const(Tensor(np.concatenate([tensor.numpy(), np.zeros_like(tensor.numpy())], axis)))
    found = find_divergence(classifier(), wider, open_source(batches()), exact)
    assert found.incomparable == ("y0", "z0") and found.first_jump is None
    assert [value.value for value in found.values] == ["y1", "z1", "y2"]


def test_the_error_before_is_that_of_the_nearest_compared_values() -> None:
    changed = change(classifier(), "w0", shift=0.5)
    for name in ("z0", "y1"):
        changed.rename(changed[name], f"{name}_renamed")
    found = find_divergence(classifier(), changed, open_source(batches()), exact)
    errors = {value.value: value for value in found.values}
    assert errors.keys() == {"y0", "z1", "y2"}
    assert errors["z1"].before == errors["y0"].after and errors["y2"].before == errors["z1"].after


# ---- sizes and times -----------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_file_and_of_the_weights() -> None:
    graph = classifier()
    add_constant(graph, "shape", np.arange(50))
    size = graph_size(graph, lambda found: len(found.ops()))
    assert size.parameters == 6 * 10 + 10 * 10 + 10 * 8 and size.macs == 5
    assert size.bytes == pytest.approx(len(to_bytes(graph)), abs=200)
    assert graph_size(tiny_graphs()["nested_if"]()).parameters == 3
    half = graph.clone()
    half["w1"].set_const(Tensor(np.zeros((10, 10), np.int8)))
    assert graph_size(half).parameters == size.parameters and graph_size(half).bytes < size.bytes
    assert half["w1"].const is not None and half["w1"].const.dtype is DataType.INT8


def test_a_graph_that_does_ten_times_the_work_takes_longer() -> None:
    def chain(layers: int) -> Graph:
        graph = Graph("chain")
        value = add_input(graph, "x", ("n", 256))
        for _ in range(layers):
            value = emit(graph, "MatMul", [value, add_constant(graph, "w", np.eye(256, dtype=np.float32))]).output
        graph.set_interface(outputs=[value])
        return graph

    feeds = {"x": np.ones((64, 256), np.float32)}
    found = latency(chain(20), chain(2), feeds, 9)
    assert found.speedup > 2 and (found.repeats, found.threads, found.batch) == (9, 1, 64)
    assert found.quartiles_a[0] <= found.median_a <= found.quartiles_a[1]
    with pytest.raises(ValueError, match="repeats"):
        latency(chain(1), chain(1), feeds, 0)


def test_rows_show_what_is_known() -> None:
    plain = compared(classifier())
    assert [row[0] for row in plain.size_rows()] == ["bytes", "parameters"] and plain.size_rows()[1][1:] == (
        "240",
        "240",
        "1.000",
    )
    full = compared(classifier(), CompareOptions(repeats=3, macs=lambda graph: 1000))
    assert [row[0] for row in full.size_rows()] == ["bytes", "parameters", "MACs", "latency ms"]
    assert full.latency is not None and full.latency.batch == 5
    assert full.size_rows()[2] == ("MACs", "1,000", "1,000", "1.000")


def test_progress_counts_batches() -> None:
    told: list[tuple[str, int, int]] = []
    options = CompareOptions(
        inner=DivergenceOptions(memory_limit=1, progress=lambda *step: told.append(step)),
        progress=lambda *step: told.append(step),
    )
    compared(classifier(), options)
    assert told[:3] == [("comparing outputs", done, 0) for done in (1, 2, 3)]
    assert told[3:] == [("comparing inner values", done, 0 if done < 4 else 15) for done in range(1, 16)]
