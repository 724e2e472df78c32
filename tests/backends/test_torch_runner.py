"""The torch runner: what onnxruntime computes, on every model; parts, devices, errors, and what it costs to load."""

from __future__ import annotations

import subprocess
import sys
import weakref
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers.graphs import random_feeds as tiny_feeds
from helpers.graphs import tiny_graphs
from helpers.torch_runs import distance, distances
from helpers.zoo import random_feeds, zoo

import secateur
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch import TorchRunner, compile_torch, torch_rules
from secateur.ir import DataType, Graph, Header
from secateur.ir.blocks import blocks
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, GraphError

torch = pytest.importorskip("torch")
TOLERANCE = 1e-5
MODELS = zoo("small", "real", "light")
_TINY = sorted(tiny_graphs())


def run(graph: Graph, feeds: dict[str, Any], runner: Any = TorchRunner, **options: Any) -> dict[str, Any]:
    with runner(graph, **options) as ready:
        found: dict[str, Any] = ready.run(feeds)
    return found


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def marked(name: str) -> Any:
    large = {"light-vgg19", "light-zfnet512"}  # half a gigabyte of weights each
    return pytest.param(name, marks=pytest.mark.slow) if name in large else name


@pytest.mark.parametrize("name", [marked(name) for name in MODELS])
def test_it_agrees_with_onnxruntime_on_real_models(name: str) -> None:
    graph = MODELS[name]()
    feeds = random_feeds(graph)
    found = distances(run(graph, feeds, partial(OnnxRuntimeRunner, threads=1)), run(graph, feeds))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", ["mnist", "vit"])
def test_it_agrees_on_what_compressing_makes(name: str) -> None:
    graph = MODELS[name]()
    feeds = random_feeds(graph)
    small = secateur.compress(graph, "prune{ratio=0.3},sparsify{worthwhile=false},quantize", [feeds]).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {op.op_type for op in small.ops()}
    found = distances(run(small, feeds, partial(OnnxRuntimeRunner, optimize=False)), run(small, feeds))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(zoo("full")))
def test_it_agrees_with_onnxruntime_on_models_of_true_size(name: str) -> None:
    graph = zoo("full")[name]()
    feeds = random_feeds(graph)
    found = distances(run(graph, feeds, OnnxRuntimeRunner), run(graph, feeds))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", _TINY)
def test_any_value_may_be_fetched_and_any_part_run_with_the_same_bits(name: str) -> None:
    graph = tiny_graphs()[name]()
    feeds = tiny_feeds(graph)
    names = [value.name for op in graph.ops() for value in op.outputs if value is not None]
    outputs = [value.name for value in graph.outputs]
    everything = run(graph, feeds, outputs=[*names, *outputs])
    expected = run(graph, feeds, OnnxRuntimeRunner, optimize=False, outputs=[*names, *outputs])
    assert max(distances(expected, everything).values()) <= TOLERANCE
    for value in names:
        found = run(graph, {**feeds, value: everything[value]}, inputs=[*feeds, value], outputs=outputs)
        for output in outputs:
            np.testing.assert_array_equal(found[output], everything[output])


@pytest.mark.parametrize("name", ["resnet50", "vit", "gpt2"])
def test_block_after_block_is_the_whole(name: str) -> None:
    graph = MODELS[name]()
    feeds = random_feeds(graph)
    found = blocks(graph)
    whole = run(graph, feeds, outputs=[value.name for block in found for value in (block.entry, block.exit)])
    assert len(found) > 3
    for block in found:
        entry, end = block.entry.name, block.exit.name
        part = run(graph, {entry: whole[entry]}, inputs=[entry], outputs=[end])
        np.testing.assert_array_equal(part[end], whole[end])


def dense(dtype: Any = np.float32) -> Graph:
    random = np.random.default_rng(0)
    graph = Graph("dense", header=Header(opsets=(("", 21),)))
    x = add_input(graph, "x", ("batch", 6))
    weight = add_constant(graph, "w", random.integers(0, 7, (6, 4)).astype(dtype))
    if np.dtype(dtype) != np.float32:
        weight = emit(graph, "Cast", [weight], {"to": 1}).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [x, weight], outputs=("y",)).output])
    return graph


_NARROW = (
    "bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz int4 uint4 int2 uint2 float4_e2m1fn".split()
)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", "uint32", "int32", "bool", *_NARROW])
def test_weights_of_every_type_are_read(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    numbers = np.random.default_rng(0).integers(0, 7, (6, 4)).astype(kind).astype(np.float32)
    np.testing.assert_array_equal(run(dense(kind), {"x": np.eye(6, dtype=np.float32)})["y"], numbers)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16", "uint64", *_NARROW])
def test_values_of_narrow_types_are_fed_and_fetched(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    graph = Graph("casts", header=Header(opsets=(("", 21),)))
    x = add_input(graph, "x", (3, 5), DataType.of(kind))
    turned = emit(graph, "Transpose", [x]).output
    wide = emit(graph, "Cast", [turned], {"to": 1}, outputs=("wide",)).output
    back = emit(graph, "Cast", [wide], {"to": int(DataType.of(kind))}, outputs=("back",)).output
    graph.set_interface(outputs=[wide, back])
    fed = np.arange(15).reshape(3, 5).astype(kind)
    found = run(graph, {"x": fed})
    assert found["back"].dtype == kind
    np.testing.assert_array_equal(found["back"].T, fed)
    np.testing.assert_array_equal(found["wide"].T, fed.astype(np.float32))


def test_an_input_with_a_default_may_be_left_out() -> None:
    graph = tiny_graphs()["overridable_input"]()
    feeds = tiny_feeds(graph)
    plain, doubled = run(graph, feeds), run(graph, {**feeds, "gain": 2 * graph["gain"].const.numpy()})  # type: ignore[union-attr]
    (name,) = plain
    np.testing.assert_allclose(doubled[name], 2 * plain[name], rtol=1e-6)


def test_what_comes_out_belongs_to_the_caller() -> None:
    graph = dense()
    graph.set_interface(outputs=[graph["x"], graph["w"], graph["y"]])
    feeds = {"x": np.ones((2, 6), np.float32)}
    with TorchRunner(graph) as runner:
        first, second = runner.run(feeds), runner.run(feeds)
        for array in first.values():
            array += 1
        again = runner.run(feeds)
    assert {name: distance(array, again[name]) for name, array in second.items()} == dict.fromkeys("xwy", 0.0)
    assert (feeds["x"] == 1).all()


def test_every_op_without_a_rule_is_named_before_anything_runs() -> None:
    graph = dense()
    value = graph["y"]
    for op_type in ("Nonsense", "their.own::Thing", "Nonsense"):
        value = emit(graph, op_type, [value]).output
    graph.set_interface(outputs=[value])
    with pytest.raises(BackendError, match=r"no rule for Nonsense \(Nonsense .*\), their\.own::Thing \(") as caught:
        compile_torch(graph)
    assert "onnxruntime" in (caught.value.hint or "")
    assert run(graph, {"x": np.ones((1, 6), np.float32)}, outputs=["y"])["y"].shape == (1, 4)


def test_rules_may_be_brought_along() -> None:
    graph = dense()
    graph.set_interface(outputs=[emit(graph, "their.own::Double", [graph["y"]], outputs=("twice",)).output])
    program = compile_torch(graph, rules={"their.own::Double": lambda call: 2 * call[0]})
    x = torch.ones(2, 6)
    np.testing.assert_array_equal(
        program({"x": x})["twice"], 2 * (x @ torch.from_numpy(graph["w"].const.numpy().copy()))
    )  # type: ignore[union-attr]
    assert "their.own::Double" not in torch_rules


def test_strings_are_refused_by_name() -> None:
    graph = Graph("words")
    graph.set_interface(outputs=[emit(graph, "Identity", [add_input(graph, "words", (2,), DataType.STRING)]).output])
    with pytest.raises(BackendError, match=r"tensors of string \('words'\)"):
        compile_torch(graph)


def test_an_op_that_fails_is_named_with_what_it_was_given() -> None:
    graph = dense()
    bad = emit(graph, "Reshape", [graph["y"], add_constant(graph, "to", [-1, 3])], outputs=("bad",))
    bad.name = "/wrong/Reshape"
    graph.set_interface(outputs=[bad.output])
    with pytest.raises(
        BackendError, match=r"cannot run Reshape '/wrong/Reshape' on float32\[2, 4\], int64\[2\]: "
    ) as caught:
        run(graph, {"x": np.ones((2, 6), np.float32)})
    assert caught.value.hint and len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "the feeds lack x; expected x"),
        ({"x": np.ones((2, 6), np.float32), "z": np.ones(1)}, "have z, which is no input; expected x"),
        ({"x": np.ones((2, 6))}, r"'x' takes f32\[batch, 6\], got float64\[2, 6\]"),
        ({"x": np.ones((2, 5), np.float32)}, r"'x' takes f32\[batch, 6\], got float32\[2, 5\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds: dict[str, Any], message: str) -> None:
    with TorchRunner(dense()) as runner, pytest.raises(DataError, match=message):
        runner.run(feeds)


def test_what_is_wrong_with_the_call_shows_before_anything_is_loaded() -> None:
    with pytest.raises(GraphError, match="no value 'nobody'"):
        TorchRunner(dense(), outputs=["nobody"])
    with pytest.raises(RuntimeError, match="inside `with`"):
        TorchRunner(dense()).run({"x": np.ones((1, 6), np.float32)})


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(BackendError, match=device) as caught, TorchRunner(dense(), device=device):
        pass
    assert caught.value.hint


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="torch is needed") as caught:
        compile_torch(dense())
    assert caught.value.hint == "pip install 'secateur[torch]'"


def test_rules_are_listed_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from secateur.backends.torch import torch_rules as rules"
    code += "; print(len(list(rules)))"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(made.stdout) > 200


def test_values_go_once_nobody_reads_them_any_more() -> None:
    """At no time more than a few of a hundred layers' outputs are held."""
    graph = Graph("long", header=Header(opsets=(("", 21),)))
    value = add_input(graph, "x", (4,))
    for _ in range(100):
        value = emit(graph, "Relu", [value]).output
    graph.set_interface(outputs=[value])
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []

    def noted(call: Any) -> Any:
        made = torch.relu(call[0])
        alive.add(made)
        most.append(len(alive))
        return made

    with torch.no_grad():
        compile_torch(graph, rules={"Relu": noted})({"x": torch.ones(4)})
    assert len(most) == 100 and max(most) <= 3
