"""The pass `armor`: three ops compute what A S B does, cores are sparse, errors fall, and what stays says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.sparse_problems import random_rows, sparse_problem

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.solvers.armor import Wrapped
from secateur.calib.solvers.element_masks import keep_of
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.ir.errors import TextError
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_uses
from secateur.ir.sparsity import sparsities
from secateur.passes.armor.fit import Blocks, Effort, blocks_of, fit
from secateur.passes.armor.rewrite import refusal, wrap_layer
from secateur.passes.context import Context
from secateur.passes.layers.matrix import write_layer
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.sparsify.patterns import Neighbours

TWO_OF_FOUR = Neighbours(2, 4)


def _mlp() -> Graph:
    net = Net("mlp")
    x = net.input("x", "n", 16)
    value = net.op("Gemm", x, net.weight("up", 24, 16), net.weight("b", 24), transB=1, alpha=0.5, beta=2.0)
    return net.done((net.op("Gemm", net.op("Relu", value), net.weight("down", 24, 8)), ("n", 8)))


def _convs() -> Graph:
    net = Net("convs")
    value = net.conv(net.input("x", "n", 16, 7, 6), "first", 24, 16, 1, 1, strides=[2, 1], pads=[1, 0, 1, 2])
    value = net.conv(net.op("Relu", value), "second", 16, 24, 1, 1, bias=False)
    return net.done((value, ("n", 16, 5, 8)))


def _attention() -> Graph:
    net = Net("attention")
    x = net.input("x", "n", "t", 16)
    query, key, value = (net.op("MatMul", x, net.weight(name, 16, 16), to=name) for name in ("q", "k", "v"))
    scores = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 1])), axis=-1)
    trunk = net.op("Add", x, net.op("MatMul", net.op("MatMul", scores, value), net.weight("out", 16, 16)))
    hidden = net.op("Relu", net.op("Add", net.op("MatMul", trunk, net.weight("up", 16, 48)), net.weight("up.bias", 48)))
    return net.done((net.op("Add", trunk, net.op("MatMul", hidden, net.weight("down", 48, 16))), ("n", "t", 16)))


def _deep() -> Graph:
    """Four axes of data; the layer's output is the model's."""
    net = Net("deep")
    return net.done((net.op("MatMul", net.input("x", 2, 3, 5, 16), net.weight("w", 16, 8), to="y"), (2, 3, 5, 8)))


GRAPHS: dict[str, Callable[[], Graph]] = {"mlp": _mlp, "convs": _convs, "attention": _attention, "deep": _deep}


def _context(graph: Graph, **more: Any) -> Context:
    source = open_source([Batch(_feeds(graph, seed)) for seed in range(8)])
    return Context(runner=OnnxRuntimeRunner, source=source, seed=3, **more)


def _feeds(graph: Graph, seed: int = 0) -> dict[str, Any]:
    """Rows of all lengths, smooth along the channels: the diagonal of their Gram says little."""
    random = np.random.default_rng(seed)
    shape = [one if isinstance(one, int) else 6 for one in graph.inputs[0].type.shape]
    axis = 1 if len(shape) == 4 and shape[1] == 16 else -1
    return {"x": np.cumsum(random.normal(size=shape), axis=axis).astype(np.float32) / 3}


def _armor(graph: Graph, options: str = "", *, data: bool = True, **more: Any) -> Result:
    context = _context(graph, **more) if data else Context()
    return run_pipeline(graph, parse_pipeline(f"armor{{{options}}}"), context)


def _outputs(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    with OnnxRuntimeRunner(graph) as runner:
        return runner.run(feeds)


def _known(graph: Graph) -> Known:
    return Known(graph, infer(graph))


def _random(random: np.random.Generator, rows: int, columns: int, left: int, right: int) -> Wrapped:
    core = random.normal(size=(rows, columns))
    return Wrapped(
        random.normal(size=(rows // left, left, left)),
        np.where(keep_of(np.abs(core), 2, 4), core, 0.0),
        random.normal(size=(columns // right, right, right)) / columns,
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_three_ops_compute_what_their_product_does(name: str) -> None:
    whole, split = GRAPHS[name](), GRAPHS[name]()
    random = np.random.default_rng(0)
    for one, other in zip(*(list(weight_uses(_known(graph))) for graph in (whole, split)), strict=True):
        assert refusal(other) is None
        wrapped = _random(random, one.outputs, one.inputs, 8, 4)
        bias = None if one.bias_port is None else random.normal(size=one.outputs)
        write_layer(whole, one, wrapped.matrix, bias)
        wrap_layer(split, other, wrapped, bias)
    split.verify()
    assert [value.name for value in split.outputs] == [value.name for value in whole.outputs]
    feeds = _feeds(whole)
    for key, expected in _outputs(whole, feeds).items():
        np.testing.assert_allclose(_outputs(split, feeds)[key], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("data", [True, False])
def test_cores_are_sparse_costs_are_told_and_outputs_stay_near(name: str, data: bool) -> None:
    dense = GRAPHS[name]()
    result = _armor(dense, "block=4, extra=0.8, worthwhile=false", data=data)
    result.graph.verify()
    entry = result.report.entries[0]
    weights = [use.weight.name for use in weight_uses(Known(dense))]
    assert result.report.rewrites == len(weights) == len(entry.rows)
    found = {one.use.weight.name: one for one in sparsities(Known(result.graph))}
    for row in entry.rows:
        assert found[row["weight"]].holds(2, 4)
        assert not found[row["weight"]].reason(2, 4)
        blocks = [result.graph[f"{row['weight']}_{side}"].const.size for side in ("left", "right")]
        assert row["extra_parameters"] == sum(blocks)
        assert not data or row["error"] < row["unwrapped"]
    feeds = _feeds(dense, seed=100)
    rest, size = 0.0, 0.0
    for key, expected in _outputs(dense, feeds).items():
        made = _outputs(result.graph, feeds)[key]
        assert made.shape == expected.shape
        rest, size = rest + np.sum((made - expected) ** 2), size + np.sum((expected - expected.mean()) ** 2)
    assert rest < (0.3 if data else 1.0) * size
    assert not result.manifest.exact


def test_it_beats_the_best_sparse_matrix_on_new_samples() -> None:
    net = Net("wide")
    y = net.op("Gemm", net.input("x", "n", 64), net.weight("w", 64, 64), net.weight("b", 64), transB=1)
    dense, errors = net.done((y, ("n", 64))), {}
    random = np.random.default_rng(0)
    mix = random.normal(size=(64, 64)) @ np.diag(0.93 ** np.arange(64)) @ random.normal(size=(64, 64))
    rows = [(random.normal(size=(200, 64)) @ mix / 8).astype(np.float32) for _ in range(7)]
    source = open_source([Batch({"x": one}) for one in rows[:6]])
    expected = _outputs(dense, {"x": rows[6]})
    for text in ("sparsify", "armor{block=8, refits=0}", "armor{block=8}", "armor{block=16, extra=0.5}"):
        result = run_pipeline(dense, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, source=source))
        made = _outputs(result.graph, {"x": rows[6]})
        errors[text] = sum(float(np.sum((made[key] - one) ** 2)) for key, one in expected.items())
    assert errors["armor{block=8}"] < 0.7 * min(errors["sparsify"], errors["armor{block=8, refits=0}"])
    assert errors["armor{block=16, extra=0.5}"] < errors["armor{block=8}"]


def test_two_runs_give_the_same_bytes() -> None:
    first, second = (_armor(_attention(), "block=4, extra=0.9, worthwhile=false") for _ in range(2))
    assert str(first.graph) == str(second.graph)
    for one, other in zip(first.graph.constants(), second.graph.constants(), strict=True):
        assert one.const is not None and other.const is not None
        assert one.const.numpy().tobytes() == other.const.numpy().tobytes()


def test_blocks_that_change_nothing_are_not_put_in() -> None:
    result = _armor(_mlp(), "block=4, extra=0.8, worthwhile=false, iterations=0, refits=0")
    assert all(row["extra_parameters"] == 0 for row in result.report.entries[0].rows)
    assert sum("has no blocks" in note for note in result.report.entries[0].notes) == 2
    assert [op.op_type for op in result.graph.ops()] == ["Gemm", "Relu", "Gemm"]
    assert all(one.holds(2, 4) for one in sparsities(Known(result.graph)))


def test_other_patterns_and_names_that_stay_dense() -> None:
    options = "pattern=4:8, patterns=[up:1:4, q:dense], block=8, extra=1.5, worthwhile=false, iterations=2, refits=1"
    result = _armor(_attention(), options)
    patterns = {row["weight"]: row["pattern"] for row in result.report.entries[0].rows}
    assert patterns == {"k": "4:8", "v": "4:8", "out": "4:8", "up": "1:4", "down": "4:8"}
    found = {one.use.weight.name: one for one in sparsities(Known(result.graph))}
    assert found["up"].holds(1, 4) and found["k"].holds(4, 8) and not found["q"].holds(4, 8)


def test_half_precision_stays_half() -> None:
    graph = _mlp()
    for value in list(graph.constants()):
        assert value.const is not None
        value.set_const(Tensor(value.const.numpy().astype(np.float16)))
    for value in (*graph.inputs, *graph.outputs):
        value.type = type(value.type)(DataType.FLOAT16, value.type.shape)
    source = open_source([Batch({"x": _feeds(_mlp(), seed)["x"].astype(np.float16)}) for seed in range(6)])
    context = Context(runner=OnnxRuntimeRunner, source=source)
    done = run_pipeline(graph, parse_pipeline("armor{block=4, extra=0.8, worthwhile=false}"), context).graph
    done.verify()
    kinds = {value.const.dtype for value in done.constants() if value.const is not None}
    assert kinds == {DataType.FLOAT16, DataType.INT64}
    (made,) = _outputs(done, {"x": _feeds(_mlp(), 50)["x"].astype(np.float16)}).values()
    assert np.isfinite(made).all() and made.dtype == np.float16


def _noted(net: Callable[[Net], Any], options: str = "worthwhile=false") -> list[str]:
    made = Net("odd")
    value, shape = net(made)
    result = _armor(made.done((value, shape)), options, data=False)
    assert result.report.rewrites == 0
    return result.report.entries[0].notes


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda n: (n.op("MatMul", n.input("x", 4, 16), n.weight("w", 16, 13)), (4, 13)), "no blocks divide 13 x 16"),
        (lambda n: (n.op("MatMul", n.input("x", 4, 18), n.weight("w", 18, 16)), (4, 16)), "no multiple of 4"),
        (lambda n: (n.op("MatMul", n.input("x", 4, 8), n.weight("w", 8, 8)), (4, 8)), "at most 25% of it"),
        (lambda n: (n.conv(n.input("x", 1, 32, 5, 5), "c", 32, 32, 3, 3), (1, 32, 3, 3)), "more than one position"),
        (lambda n: (n.conv(n.input("x", 1, 64, 5, 5), "c", 64, 32, 1, 1, group=2), (1, 64, 5, 5)), "grouped"),
        (lambda n: (n.op("MatMul", n.weight("w", 32, 32), n.input("x", 32, 5)), (32, 5)), "on the left"),
        (lambda n: (n.op("MatMul", n.input("x", 3, 4, 32), n.weight("w", 3, 32, 32)), (3, 4, 32)), "stacked"),
    ],
)
def test_what_stays_as_it_is_says_why(net: Callable[[Net], Any], words: str) -> None:
    assert any(words in note for note in _noted(net)), _noted(net)


def test_a_shared_weight_and_one_that_is_sparse_already_stay() -> None:
    net = Net("shared")
    w = net.weight("w", 32, 32)
    value = net.op("MatMul", net.op("Relu", net.op("MatMul", net.input("x", 4, 32), w)), w)
    mask = keep_of(np.random.default_rng(0).normal(size=(32, 32)), 2, 4).T
    value = net.op("MatMul", value, net.constant("s", mask.astype(np.float32)))
    result = _armor(net.done((value, (4, 32))), data=False)
    assert result.report.rewrites == 0
    notes = " ".join(result.report.entries[0].notes)
    assert "w stays as it is: 2 ops read it" in notes and "s stays as it is: it is 2:4 already" in notes


@pytest.mark.parametrize(
    "options",
    ["pattern=50%", "pattern=dense", "pattern=8:16", "patterns=[a:50%]", "block=0", "extra=0.0", "iterations=-1"],
)
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    with pytest.raises((ValueError, TextError)):
        parse_pipeline(f"armor{{{options}}}")


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (30, 40), (384, 1536)])
@pytest.mark.parametrize("extra", [0.1, 0.25, 0.6])
def test_blocks_divide_and_cost_no_more_than_they_may(size: tuple[int, int], extra: float) -> None:
    found = blocks_of(*size, 4, 32, extra)
    options = [
        one * size[0] + other * size[1]
        for one in range(4, 33)
        for other in range(4, 33, 4)
        if not (size[0] % one or size[1] % other)
    ]
    if found is None:
        assert min(options) > extra * size[0] * size[1]
        return
    assert not (size[0] % found.left or size[1] % found.right or found.right % 4)
    assert found.extra(*size) <= extra * size[0] * size[1]


def test_what_the_data_cannot_tell_apart_is_no_worse_than_its_start() -> None:
    """Three rows for sixteen inputs; inputs that are all zero; nothing held out."""
    weight = np.random.default_rng(1).normal(size=(16, 16))
    for rows in (random_rows(0, 4, 16), np.zeros((20, 16)), random_rows(0, 40, 16) * (np.arange(16) < 3)):
        for bias in (False, True):
            problem = sparse_problem(weight, rows, bias=bias)
            found = fit(problem, TWO_OF_FOUR, Blocks(4, 4), Effort(5, 3))
            assert np.isfinite(found.wrapped.matrix).all()
            assert found.error is None or found.error <= (found.unwrapped or 0.0)
            assert (bias and found.bias is not None) or found.bias is None


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from secateur.backends.tensorrt import BuildOptions, build

    net = Net("both")
    value = net.op("MatMul", net.input("x", 4, 8, 64), net.weight("w", 64, 64))
    value = net.op("Transpose", value, perm=[0, 2, 1])
    value = net.op("Reshape", value, net.constant("shape", np.array([4, 64, 2, 4], np.int64)))
    done = _armor(net.done((net.conv(value, "c", 64, 64, 1, 1), (4, 64, 2, 4))), "block=8", data=False)
    assert done.report.rewrites == 2
    done.graph.save(tmp_path / "model.onnx")
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",))
    assert build(tmp_path / "model.onnx", tmp_path / "out.engine", options).layers
