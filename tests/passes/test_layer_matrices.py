"""A layer is its rows times its matrices, whatever op computes it: checked against what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.ir import DataType, Graph, Header, Tensor
from secateur.ir.build import emit
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.ir.sparsity import sparsity_of
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather, gather_slabs
from secateur.passes.layers.matrix import as_matrices, bias_of, from_matrices, matrices_of, matrix_of, write_matrices
from secateur.passes.layers.own_evidence import gather_inputs
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]


class _Feeds:
    name = "random feeds"

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.batches = [
            Batch({value.name: _numbers(random, value.type) for value in graph.inputs if value.const is None})
            for _ in range(2)
        ]

    def __iter__(self):
        return iter(self.batches)


def _numbers(random: np.random.Generator, kind: Any) -> Array:
    shape = [dim if isinstance(dim, int) else 3 for dim in kind.shape]
    return random.normal(size=shape).astype(kind.dtype.numpy)


def _net(name: str) -> Net:
    return Net(name, graph=Graph(name, header=Header(ir_version=10, opsets=(("", 20), ("com.microsoft", 1)))))


def _use(graph: Graph) -> WeightUse:
    (use,) = weight_uses(Known(graph, infer(graph)))
    return use


def _errors(graph: Graph, dense: Graph | None = None, positions: int = 0) -> list[float]:
    """1 - R² of each slab's own matrix and bias on what the op gives, and on the held-out part of it."""
    use = _use(graph)
    source = _Feeds(graph)
    context = Context(runner=OnnxRuntimeRunner, source=source)
    streams = Streams.whole(graph, graph if dense is None else dense, source)
    (found,) = gather_slabs(streams, [use], context, positions)
    matrices, bias = matrices_of(use), bias_of(use)
    assert len(found) == len(matrices) == use.slabs
    biases = [None] * len(matrices) if bias is None else bias.reshape(len(matrices), -1)
    errors = []
    for evidence, matrix, one in zip(found, matrices, biases, strict=True):
        assert evidence.fit.rows > 0
        errors.append(evidence.error(matrix.T, one))
        together = type(evidence)(evidence.together(), evidence.held_out.__class__(evidence.fit.width, len(matrix)))
        errors.append(together.error(matrix.T, one))
    return errors


def _check(graph: Graph, positions: int = 0) -> None:
    graph.verify()
    assert max(_errors(graph, positions=positions)) < 1e-9
    # The same after something else was written, so that layouts are those that the op reads.
    use = _use(graph)
    dense, random = graph.clone(), np.random.default_rng(1)
    matrices = matrices_of(use) + 0.3 * random.normal(size=matrices_of(use).shape)
    bias = bias_of(use)
    write_matrices(graph, use, matrices, None if bias is None else bias + 1)
    graph.verify()
    np.testing.assert_allclose(matrices_of(_use(graph)), matrices, rtol=1e-5, atol=1e-6)
    assert max(_errors(graph, positions=positions)) < 1e-9
    assert min(_errors(graph, dense)) > 1e-4


@st.composite
def _convolutions(draw: st.DrawFn) -> Graph:
    rank, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = rank) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(count)]

    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    spatial = [extent + draw(st.integers(1, 3)) for extent in extents]
    if transposed:
        attributes["pads"] = [draw(st.integers(0, (extent - 1) // 2)) for extent in [*extents, *extents]]
        attributes["output_padding"] = [draw(st.integers(0, max(step - 1, 0))) for step in strides]
        shape = (group * inputs, outputs, *kernel)
    else:
        attributes["pads"] = each(0, 2, 2 * rank)
        shape = (group * outputs, inputs, *kernel)
    net = _net("convolution")
    x = net.input("x", 6, group * inputs, *spatial)
    extra = [net.weight("b", group * outputs)] if draw(st.booleans()) else []
    made = net.op("ConvTranspose" if transposed else "Conv", x, net.weight("w", *shape), *extra, **attributes)
    return net.done((made, [None] * (rank + 2)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(_convolutions(), st.sampled_from([0, 0, 5]))
def test_convolutions_of_any_geometry_are_matrices(graph: Graph, positions: int) -> None:
    _check(graph, positions)


@pytest.mark.parametrize("auto_pad", ["VALID", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_that_pad_by_a_rule(auto_pad: str, stride: int) -> None:
    net = _net("auto_pad")
    x = net.input("x", 6, 4, 5, 6)
    made = net.op("ConvTranspose", x, net.weight("w", 4, 3, 3, 2), auto_pad=auto_pad, strides=[stride, stride])
    _check(net.done((made, [None] * 4)))


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_transposed_convolutions_whose_output_has_a_given_shape(auto_pad: str) -> None:
    net = _net("output_shape")
    x = net.input("x", 6, 4, 5, 6)
    more = {"output_shape": [9, 10], "strides": [2, 2], "auto_pad": auto_pad}
    made = net.op("ConvTranspose", x, net.weight("w", 4, 3, 3, 3), **more)
    _check(net.done((made, [None] * 4)))


def _gemm(trans_a: int, trans_b: int, alpha: float = 1.0, beta: float = 1.0) -> Graph:
    net = _net("gemm")
    x = net.input("x", 5, 12) if trans_a else net.input("x", 12, 5)
    weight = net.weight("w", 4, 5) if trans_b else net.weight("w", 5, 4)
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    return net.done((net.op("Gemm", x, weight, net.weight("b", 4), **attributes), [12, 4]))


def _matmul(data: tuple[int, ...], weight: tuple[int, ...], left: bool = False) -> Graph:
    net = _net("matmul")
    x, w = net.input("x", *data), net.weight("w", *weight)
    made = net.op("MatMul", w, x) if left else net.op("MatMul", x, w)
    return net.done((made, [None] * max(len(data), len(weight))))


def _einsum(equation: str, data: tuple[int, ...], weight: tuple[int, ...], rank: int, left: bool = False) -> Graph:
    net = _net("einsum")
    x, w = net.input("x", *data), net.weight("w", *weight)
    made = net.op("Einsum", *((w, x) if left else (x, w)), equation=equation)
    return net.done((made, [None] * rank))


def _behind(*steps: tuple[str, dict[str, Any]], shape: tuple[int, ...], kind: str = "MatMul") -> Graph:
    """A weight behind other ops; a name that begins with `shape` is given a constant as its second input."""
    net = _net("chain")
    value = net.weight("w", *shape)
    for op, attributes in steps:
        given = dict(attributes)
        extra = [net.constant("given", np.array(given.pop("to_"), np.int64))] if "to_" in given else []
        value = emit(net.graph, op, [value, *extra], given).output
    if kind == "MatMul":
        return net.done((net.op("MatMul", net.input("x", 7, 3, 8), value), [7, 3, 4]))
    return net.done((net.op("Conv", net.input("x", 6, 8, 5, 5), value, net.weight("b", 4)), [None] * 4))


def _quantized(net: Net, value: Any) -> Any:
    scale, zero = net.constant("scale", np.float32(0.01)), net.constant("zero", np.int8(0))
    return net.op("DequantizeLinear", net.op("QuantizeLinear", value, scale, zero), scale, zero)


CASES: dict[str, Callable[[], Graph]] = {
    "gemm": lambda: _gemm(0, 0),
    "gemm-b": lambda: _gemm(0, 1),
    "gemm-a": lambda: _gemm(1, 0),
    "gemm-ab-scaled": lambda: _gemm(1, 1, 0.5, 2.0),
    "matmul-2d": lambda: _matmul((12, 5), (5, 4)),
    "matmul-4d": lambda: _matmul((6, 2, 3, 5), (5, 4)),
    "matmul-wide-weight": lambda: _matmul((12, 5), (1, 5, 4)),
    "matmul-left": lambda: _matmul((6, 5, 3), (4, 5), left=True),
    "matmul-left-2d": lambda: _matmul((5, 12), (4, 5), left=True),
    "experts": lambda: _matmul((3, 12, 5), (3, 5, 4)),
    "experts-of-each-sample": lambda: _matmul((6, 3, 2, 5), (3, 5, 4)),
    "experts-of-the-same": lambda: _matmul((12, 5), (3, 5, 4)),
    "experts-of-the-same-4d": lambda: _matmul((6, 1, 4, 5), (3, 5, 4)),
    "experts-on-the-left": lambda: _matmul((6, 3, 5, 4), (3, 4, 5), left=True),
    "experts-1-3-1": lambda: _matmul((6, 3, 2, 5), (1, 3, 5, 4)),
    "einsum": lambda: _einsum("bsd,dk->bsk", (6, 3, 5), (5, 4), 3),
    "einsum-dots": lambda: _einsum("...d,kd->...k", (6, 3, 5), (4, 5), 3),
    "einsum-left": lambda: _einsum("oc,bcs->bos", (6, 5, 3), (4, 5), 3, left=True),
    "einsum-implicit": lambda: _einsum("ij,jk", (12, 5), (5, 4), 2),
    "einsum-experts": lambda: _einsum("ebc,eck->ebk", (3, 12, 5), (3, 5, 4), 3),
    "einsum-heads": lambda: _einsum("bsd,dhk->bshk", (6, 3, 5), (5, 2, 4), 4),
    "einsum-turned": lambda: _einsum("bsd,dk->kbs", (6, 3, 5), (5, 4), 3),
    "transpose": lambda: _behind(("Transpose", {"perm": [1, 0]}), shape=(4, 8)),
    "transpose-twice": lambda: _behind(("Transpose", {}), ("Identity", {}), ("Transpose", {}), shape=(8, 4)),
    "cast": lambda: _behind(("Cast", {"to": 11}), ("Cast", {"to": 1}), shape=(8, 4)),
    "reshape": lambda: _behind(("Reshape", {"to_": [8, -1]}), shape=(1, 8, 4)),
    "reshape-merges-rows": lambda: _behind(("Reshape", {"to_": [8, 4]}), shape=(8, 2, 2)),
    "squeeze-transpose": lambda: _behind(("Squeeze", {"to_": [2]}), ("Transpose", {}), shape=(4, 8, 1)),
    "unsqueeze-conv": lambda: _behind(("Unsqueeze", {"to_": [2, 3]}), shape=(4, 8), kind="Conv"),
    "flatten": lambda: _behind(("Flatten", {"axis": 1}), shape=(8, 4, 1)),
    "turned-conv": lambda: _behind(("Transpose", {"perm": [3, 2, 0, 1]}), shape=(3, 2, 8, 4), kind="Conv"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_its_rows_times_its_matrices(name: str) -> None:
    _check(CASES[name]())


def test_codes_behind_a_quantizer_are_rounded_in_what_the_op_gives() -> None:
    net = _net("quantized")
    made = net.op("MatMul", net.input("x", 20, 8), _quantized(net, net.weight("w", 8, 4)))
    graph = net.done((made, [20, 4]))
    use = _use(graph)
    assert (use.weight.name, use.produced, use.contracted) == ("w", 1, 0)
    assert max(_errors(graph)) < 1e-2


def test_a_product_of_data_of_unknown_rank_is_a_layer() -> None:
    net = _net("unknown")
    x = net.input("x", 6, 4, 5)
    hidden = net.op("Reshape", x, net.op("Shape", x))
    made = net.op("MatMul", hidden, net.weight("w", 5, 4))
    graph = net.done((made, [6, 4, 4]))
    (use,) = weight_uses(Known(graph))
    assert (use.data_axis, use.output_axis, use.is_plain) == (-1, -1, True)
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    (found,) = gather(Streams.whole(graph, graph, context.source), [use], context, 0)
    assert found.error(matrix_of(use).T, None) < 1e-9


def _fused() -> Graph:
    net = _net("attention")
    weight, bias = net.weight("w", 8, 24), net.weight("b", 24)
    made = net.op("com.microsoft::Attention", net.input("x", 6, 5, 8), weight, bias, num_heads=2)
    return net.done((made, [6, 5, 8]))


def test_what_goes_into_fused_attention_is_computed_from_its_data() -> None:
    graph = _fused()
    use, source = _use(graph), _Feeds(graph)
    assert (use.produced, use.contracted, use.targets) == (1, 0, "data")
    context = Context(runner=OnnxRuntimeRunner, source=source)
    present = graph.clone()
    write_matrices(present, _use(present), 2 * matrices_of(use), None)
    (found,) = gather(Streams.whole(present, graph, source), [_use(present)], context, 0)
    weight, bias = (graph[name].const.numpy().astype(np.float64) for name in ("w", "b"))
    rows = np.concatenate([batch.feeds["x"].reshape(-1, 8) for batch in source])
    np.testing.assert_allclose(found.together().xy, rows.T @ (rows @ weight + bias), rtol=1e-5, atol=1e-5)
    assert found.error(matrix_of(use).T, bias) < 1e-9


def test_experts_inside_an_op_show_nothing() -> None:
    net = _net("moe")
    x, router = net.input("x", 5, 8), net.input("router", 5, 3)
    weights = [net.weight("fc1", 3, 16, 8), None, net.weight("fc2", 3, 8, 16)]
    graph = net.done((net.op("com.microsoft::MoE", x, router, *weights, k=1), [5, 8]))
    uses = list(weight_uses(Known(graph)))
    assert [(use.weight.name, use.batch, use.contracted, use.slabs, use.targets) for use in uses] == [
        ("fc1", (0,), 2, 3, None),
        ("fc2", (0,), 2, 3, None),
    ]
    with pytest.raises(ValueError, match="cannot be seen"):
        gather_slabs(Streams.whole(graph, graph, _Feeds(graph)), uses, Context(), 0)


@pytest.mark.parametrize("name", CASES)
def test_inputs_alone_have_the_same_moments(name: str) -> None:
    graph = CASES[name]()
    use, source = _use(graph), _Feeds(graph)
    streams = Streams.whole(graph, graph, source)
    context = Context(runner=OnnxRuntimeRunner, source=source)
    (both,) = gather_slabs(streams, [use], context, 3)
    (alone,) = gather_inputs(streams.present, [use], context, 3)
    assert len(both) == len(alone) == use.slabs
    for one, other in zip(both, alone, strict=True):
        assert other.fit.target_width == 0
        # Which rows are held out may go by the samples of what is read, and not of what is given.
        assert other.held_out.rows == pytest.approx(other.fit.rows / 4, rel=0.5)
        np.testing.assert_allclose(one.together().xx, other.together().xx, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_arrays_of_the_weights_shape_go_to_matrices_and_back(name: str) -> None:
    use = _use(CASES[name]())
    numbers = np.arange(use.tensor.size).reshape(use.tensor.shape)
    matrices = as_matrices(use, numbers)
    assert matrices.shape == matrices_of(use).shape
    np.testing.assert_array_equal(from_matrices(use, matrices), numbers)
    # Neighbours along the contracted axis are neighbouring input channels: taps are what a channel has of them.
    taps = int(np.prod([use.tensor.shape[axis] for axis in use.taps], dtype=int))
    step = int(np.prod(use.tensor.shape[use.contracted + 1 :], dtype=int))
    channels = matrices.reshape(*matrices.shape[:2], -1, taps)
    assert (np.diff(channels, axis=2) == step).all()


def test_a_shared_weight_behind_a_chain_is_written_for_one_reader_only() -> None:
    net = _net("shared")
    x, weight = net.input("x", 9, 8), net.weight("w", 4, 8)
    turned = net.op("Transpose", weight)
    one, other = net.op("MatMul", x, turned), net.op("MatMul", x, turned)
    graph = net.done((one, [9, 4]), (other, [9, 4]))
    first, second = weight_uses(Known(graph))
    write_matrices(graph, first, np.zeros((1, 4, 8)), None)
    graph.verify()
    feeds = _Feeds(graph).batches[0].feeds
    with OnnxRuntimeRunner(graph) as runner:
        zero, kept = runner.run(feeds).values()
    assert not zero.any()
    np.testing.assert_allclose(kept, feeds["x"] @ matrices_of(second)[0].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT32])
def test_what_is_written_has_the_type_that_was_there(dtype: DataType) -> None:
    net = _net("types")
    graph = net.done((net.op("MatMul", net.input("x", 9, 8, dtype=dtype), net.weight("w", 8, 4)), [9, 4]), dtype=dtype)
    graph["w"].set_const(Tensor(graph["w"].const.numpy().astype(dtype.numpy), dtype))
    use = _use(graph)
    write_matrices(graph, use, matrices_of(use) / 2, None)
    assert graph["w"].const.dtype is dtype


def test_codes_cannot_be_written() -> None:
    net = _net("codes")
    codes = net.constant("w", np.ones((8, 4), np.int8))
    weight = net.op("DequantizeLinear", codes, net.constant("scale", np.float32(0.1)))
    graph = net.done((net.op("MatMul", net.input("x", 9, 8), weight), [9, 4]))
    use = _use(graph)
    with pytest.raises(ValueError, match="codes of type i8"):
        write_matrices(graph, use, matrices_of(use), None)


def _odd_ones() -> Graph:
    """Weights that are not plain: stacked, behind a Transpose, of Einsum, of fused attention; and one that is."""
    net = _net("odd")
    x = net.input("x", 12, 5, 16)
    value = net.op("MatMul", x, net.op("Transpose", net.weight("turned", 16, 16), perm=[1, 0]))
    value = net.op("Einsum", value, net.weight("summed", 16, 16), equation="bsd,dk->bsk")
    value = net.op("com.microsoft::Attention", value, net.weight("fused", 16, 48), net.weight("b", 48), num_heads=2)
    value = net.op("Add", value, net.op("Relu", value))
    stacked = net.op("Reshape", value, net.constant("apart", np.array([3, 20, 16], np.int64)))
    value = net.op("MatMul", stacked, net.weight("stacked", 3, 16, 16))
    value = net.op("Reshape", value, net.constant("together", np.array([12, 5, 16], np.int64)))
    return net.done((net.op("MatMul", value, net.weight("plain", 16, 16)), [12, 5, 16]))


@pytest.mark.parametrize(
    ("recipe", "left", "changes"),
    [
        ("quantize{format=int8}", ["summed", "fused", "stacked"], ["plain_quantized", "turned_quantized"]),
        ("factorize{ratio=0.9, align=1}", ["turned", "summed", "fused", "stacked"], ["plain_down"]),
    ],
)
def test_passes_say_what_they_leave_alone(recipe: str, left: list[str], changes: list[str]) -> None:
    graph = _odd_ones()
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    done = run_pipeline(graph, parse_pipeline(recipe), context)
    told = " ".join(done.report.entries[0].notes)
    for name in left:
        assert f"{name} stays" in told
        assert done.graph[name].const is not None and done.graph[name].const.equals(graph[name].const)
    assert {value.name for value in done.graph.constants()} >= set(changes)


@pytest.mark.parametrize("repair", ["none", "least-squares"])
def test_sparsify_takes_all_of_them(repair: str) -> None:
    graph = _odd_ones()
    context = Context(runner=OnnxRuntimeRunner, source=_Feeds(graph))
    done = run_pipeline(graph, parse_pipeline(f"sparsify{{repair={repair}, criterion=magnitude}}"), context)
    for use in weight_uses(Known(done.graph)):
        found = sparsity_of(use)
        assert found.holds(2, 4), use.weight.name
        assert use.weight.name in {"turned", "summed", "fused", "stacked", "plain"}
    with OnnxRuntimeRunner(done.graph) as runner:
        outputs = runner.run(_Feeds(graph).batches[0].feeds)
    assert all(np.isfinite(one).all() for one in outputs.values())


@pytest.mark.parametrize("recipe", ["quantize", "factorize{align=1}", "sparsify{worthwhile=false}", "prune{align=1}"])
def test_products_of_unknown_rank_go_through_all_passes(recipe: str) -> None:
    graph = zoo("small")["llama-fused"]()

    class Feeds:
        name = "random feeds"

        def __iter__(self):
            return iter([Batch(random_feeds(graph, seed)) for seed in range(2)])

    done = run_pipeline(graph, parse_pipeline(recipe), Context(runner=OnnxRuntimeRunner, source=Feeds()))
    assert done.report.entries[0].rewrites > 1
    with OnnxRuntimeRunner(done.graph) as runner:
        assert all(np.isfinite(one).all() for one in runner.run(random_feeds(graph, 0)).values())
