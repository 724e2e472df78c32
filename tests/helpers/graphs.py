"""Tiny float32 graphs for every test: one for each thing that a pass can trip over, valid ONNX, with seeded weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, FunctionKey, Graph, Header, Tensor, TensorType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.node import Attribute, AttributeKind, ConstantNode
from secateur.ir.types import Dim

SYMBOL_SIZE = 3
"""What `random_feeds` gives to a symbolic or unknown axis."""


class Net:
    """Writes a graph from top to bottom: `y = net.op("Conv", x, net.weight("w", 4, 3, 3, 3), pads=[1, 1, 1, 1])`."""

    def __init__(self, name: str, seed: int = 0, graph: Graph | None = None) -> None:
        self.graph = graph if graph is not None else Graph(name, header=Header(ir_version=10, opsets=(("", 20),)))
        self.random = np.random.default_rng([seed, *name.encode()])

    def input(self, name: str, *shape: Dim, dtype: DataType = DataType.FLOAT32) -> Value:
        return add_input(self.graph, name, shape, dtype)

    def weight(self, name: str, *shape: int) -> Value:
        """Normal numbers, scaled by the root of the fan-in, so that outputs stay near one."""
        spread = 1 / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.constant(name, (self.random.normal(size=shape) * spread).astype(np.float32))

    def scale(self, name: str, *shape: int) -> Value:
        """Positive numbers between a half and one and a half."""
        return self.constant(name, self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def constant(self, name: str, array: Any) -> Value:
        return add_constant(self.graph, name, array)

    def op(self, op_type: str, *inputs: Value | None, to: str = "", **attributes: Any) -> Value:
        """Adds an op that is named after its output, and returns that output."""
        made = emit(self.graph, op_type, inputs, attributes, outputs=[to or op_type.lower()])
        made.name = f"/{made.output.name}"
        return made.output

    def conv(self, value: Value, to: str, *weight: int, bias: bool = True, **attributes: Any) -> Value:
        extra = [self.weight(f"{to}.bias", weight[0])] if bias else []
        return self.op("Conv", value, self.weight(f"{to}.weight", *weight), *extra, to=to, **attributes)

    def batch_norm(self, value: Value, to: str, size: int) -> Value:
        return self.op(
            "BatchNormalization",
            value,
            self.scale(f"{to}.scale", size),
            self.weight(f"{to}.bias", size),
            self.weight(f"{to}.mean", size),
            self.scale(f"{to}.variance", size),
            to=to,
        )

    def body(self, name: str) -> Net:
        """A body of this graph's weights' seed; hand its graph to `op` as an attribute."""
        inner = Net(name, graph=Graph(name, body=True))
        inner.random = self.random
        return inner

    def done(self, *outputs: tuple[Value, Sequence[Dim]], dtype: DataType = DataType.FLOAT32) -> Graph:
        """Sets the outputs with their types, and returns the graph."""
        for value, shape in outputs:
            value.type = TensorType(dtype, tuple(shape))
        self.graph.set_interface(outputs=[value for value, _ in outputs])
        return self.graph


def conv_bn_relu() -> Graph:
    net = Net("conv_bn_relu")
    value = net.conv(net.input("x", 1, 3, 8, 8), "conv", 6, 3, 3, 3, bias=False, pads=[1, 1, 1, 1])
    value = net.op("Relu", net.batch_norm(value, "bn", 6))
    return net.done((net.conv(value, "head", 4, 6, 1, 1), (1, 4, 8, 8)))


def conv_no_bias() -> Graph:
    net = Net("conv_no_bias")
    value = net.conv(net.input("x", 1, 3, 6, 6), "first", 5, 3, 3, 3, bias=False, strides=[2, 2])
    return net.done((net.conv(net.op("Relu", value), "second", 4, 5, 1, 1, bias=False), (1, 4, 2, 2)))


def residual() -> Graph:
    net = Net("residual")
    trunk = net.conv(net.input("x", 2, 3, 6, 6), "stem", 6, 3, 1, 1)
    for name in ("a", "b"):
        inner = net.op("Relu", net.conv(trunk, f"{name}1", 8, 6, 3, 3, pads=[1, 1, 1, 1]))
        inner = net.conv(inner, f"{name}2", 6, 8, 3, 3, pads=[1, 1, 1, 1])
        trunk = net.op("Relu", net.op("Add", trunk, inner, to=f"{name}_sum"))
    return net.done((net.op("Flatten", net.op("GlobalAveragePool", trunk), axis=1), (2, 6)))


def depthwise() -> Graph:
    net = Net("depthwise")
    value = net.op("Relu", net.conv(net.input("x", 1, 3, 6, 6), "expand", 8, 3, 1, 1))
    value = net.conv(value, "depthwise", 8, 1, 3, 3, group=8, pads=[1, 1, 1, 1])
    return net.done((net.conv(net.op("Relu", value), "project", 4, 8, 1, 1), (1, 4, 6, 6)))


def grouped_conv() -> Graph:
    net = Net("grouped_conv")
    value = net.op("Relu", net.conv(net.input("x", 1, 4, 6, 6), "first", 8, 4, 1, 1))
    value = net.conv(value, "grouped", 12, 4, 3, 3, group=2, pads=[1, 1, 1, 1])
    return net.done((net.conv(net.op("Relu", value), "last", 4, 12, 1, 1), (1, 4, 6, 6)))


def concat() -> Graph:
    net = Net("concat")
    x = net.input("x", 1, 3, 6, 6)
    left = net.op("Relu", net.conv(x, "left", 4, 3, 1, 1))
    right = net.op("Relu", net.conv(x, "right", 6, 3, 3, 3, pads=[1, 1, 1, 1]))
    joined = net.op("Concat", left, right, axis=1)
    return net.done((net.conv(joined, "head", 4, 10, 1, 1), (1, 4, 6, 6)))


def gemm_mlp() -> Graph:
    net = Net("gemm_mlp")
    value = net.op("Gemm", net.input("x", 4, 6), net.weight("w1", 10, 6), net.weight("b1", 10), to="fc1", transB=1)
    value = net.op("Gemm", net.op("Relu", value), net.weight("w2", 10, 3), net.weight("b2", 3), to="fc2", alpha=0.5)
    return net.done((value, (4, 3)))


def matmul_mlp() -> Graph:
    net = Net("matmul_mlp")
    value = net.op("MatMul", net.input("x", 2, 5, 6), net.weight("up", 6, 12), to="hidden")
    value = net.op("Gelu", net.op("Add", value, net.weight("up.bias", 12)))
    value = net.op("MatMul", value, net.weight("down", 12, 6), to="small")
    return net.done((net.op("Add", net.weight("down.bias", 6), value), (2, 5, 6)))


def attention() -> Graph:
    net = Net("attention")
    x = net.input("x", 2, 5, 8)
    split = net.constant("split", np.array([0, 0, 2, 4]))
    heads = [
        net.op("Transpose", net.op("Reshape", net.op("MatMul", x, net.weight(name, 8, 8), to=name), split), perm=perm)
        for name, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
    ]
    scores = net.op("Mul", net.op("MatMul", heads[0], heads[1]), net.constant("scaling", np.float32(0.5)))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), heads[2])
    joined = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.constant("join", np.array([0, 0, 8])))
    trunk = net.op("Add", x, net.op("MatMul", joined, net.weight("output", 8, 8)))
    value = net.op("LayerNormalization", trunk, net.scale("ln.scale", 8), net.weight("ln.bias", 8), axis=-1)
    return net.done((value, (2, 5, 8)))


def shared_weight() -> Graph:
    net = Net("shared_weight")
    weight = net.weight("tied", 6, 6)
    value = net.op("Relu", net.op("MatMul", net.input("x", 4, 6), weight, to="first"))
    return net.done((net.op("MatMul", value, weight, to="second"), (4, 6)))


def weight_output() -> Graph:
    net = Net("weight_output")
    weight = net.weight("w", 6, 3)
    value = net.op("MatMul", net.input("x", 4, 6), weight)
    return net.done((value, (4, 3)), (weight, (6, 3)))


def duplicate_input() -> Graph:
    net = Net("duplicate_input")
    value = net.op("Relu", net.input("x", 4, 6))
    return net.done((net.op("Add", value, value), (4, 6)))


def if_captures() -> Graph:
    net = Net("if_captures")
    condition = net.input("condition", dtype=DataType.BOOL)
    value = net.op("Relu", net.op("MatMul", net.input("x", 4, 6), net.weight("w", 6, 5)))
    outer = net.weight("outer", 5, 5)
    then, other = net.body("then"), net.body("other")
    then.done((then.op("MatMul", value, outer, to="chosen"), (4, 5)))
    other.done((other.op("Add", value, other.weight("inner", 5), to="added"), (4, 5)))
    made = net.op("If", condition, then_branch=then.graph, else_branch=other.graph)
    return net.done((net.op("Tanh", made), (4, 5)))


def nested_if() -> Graph:
    net = Net("nested_if")
    condition, x = net.input("condition", dtype=DataType.BOOL), net.input("x", 4, 3)
    weight, value = net.weight("outermost", 3), net.op("Relu", x)
    outer, innermost = net.body("outer"), net.body("innermost")
    straight, aside = net.body("straight"), net.body("aside")
    innermost.done((innermost.op("Mul", value, weight, to="deep"), (4, 3)))
    straight.done((straight.op("Neg", value, to="shallow"), (4, 3)))
    inner = outer.op("If", condition, to="inner", then_branch=innermost.graph, else_branch=straight.graph)
    outer.done((inner, (4, 3)))
    aside.done((aside.op("Identity", value, to="passed"), (4, 3)))
    return net.done((net.op("If", condition, then_branch=outer.graph, else_branch=aside.graph), (4, 3)))


def decided_if() -> Graph:
    """One branch is never taken."""
    net = Net("decided_if")
    x, yes, no = net.op("Relu", net.input("x", 4, 3)), net.body("yes"), net.body("no")
    yes.done((yes.op("Mul", x, yes.weight("many", 3), to="times"), (4, 3)))
    no.done((no.op("Neg", no.op("Mul", x, no.weight("few", 3), to="less"), to="minus"), (4, 3)))
    chosen = net.op(
        "If", net.constant("decided", np.bool_(False)), then_branch=yes.graph, else_branch=no.graph, to="chosen"
    )
    return net.done((net.op("Sigmoid", chosen), (4, 3)))


def loop() -> Graph:
    net = Net("loop")
    x, step = net.input("x", 4, 3), net.weight("step", 3)
    count, go_on = net.constant("count", np.int64(3)), net.constant("go_on", np.bool_(True))
    body = net.body("turn")
    body.input("turn_number", dtype=DataType.INT64)
    still, state = body.input("still", dtype=DataType.BOOL), body.input("state", 4, 3)
    kept = body.op("Identity", still, to="kept")
    kept.type = TensorType(DataType.BOOL, ())
    body.done((body.op("Add", state, step, to="moved"), (4, 3)))
    body.graph.set_interface(outputs=[kept, *body.graph.outputs])
    return net.done((net.op("Loop", count, go_on, x, body=body.graph), (4, 3)))


def scan() -> Graph:
    net = Net("scan")
    initial, sequence = net.input("initial", 3), net.input("sequence", 5, 3)
    body = net.body("each")
    state, item = body.input("state", 3), body.input("item", 3)
    total = body.op("Add", state, item, to="total")
    body.done((total, (3,)), (body.op("Mul", total, net.weight("factor", 3), to="scaled"), (3,)))
    made = emit(
        net.graph,
        "Scan",
        [initial, sequence],
        {"body": body.graph, "num_scan_inputs": 1},
        outputs=["final", "all"],
    )
    final, every = made.outputs
    assert final is not None and every is not None
    return net.done((final, (3,)), (every, (5, 3)))


def function_call() -> Graph:
    net = Net("function_call")
    domain = "example.functions"
    net.graph.header = replace(net.graph.header, opsets=(("", 20), (domain, 1)))
    parameters = (("slope", Attribute(AttributeKind.FLOAT, 0.25)),)
    inner = Net("function", graph=Graph("ScaledLeaky", header=Header(opsets=(("", 20),), parameters=parameters)))
    a, b = (inner.graph.add_value(Value(name)) for name in "ab")
    inner.graph.set_interface(inputs=[a, b])
    slope = Attribute(AttributeKind.FLOAT, None, reference="slope")
    scaled = inner.op("LeakyRelu", inner.op("Mul", a, b), alpha=slope)
    inner.graph.set_interface(outputs=[scaled])
    net.graph.functions[FunctionKey(domain, "ScaledLeaky")] = inner.graph
    value = net.op(f"{domain}::ScaledLeaky", net.input("x", 4, 6), net.scale("factor", 6))
    value = net.op(f"{domain}::ScaledLeaky", value, net.scale("other", 6), slope=0.125)
    return net.done((net.op("MatMul", value, net.weight("w", 6, 3)), (4, 3)))


def dynamic_batch() -> Graph:
    net = Net("dynamic_batch")
    value = net.conv(net.input("x", "batch", 3, 6, 6), "conv", 4, 3, 3, 3)
    batch = net.op("Shape", value, end=1)
    target = net.op("Concat", batch, net.constant("rest", np.array([64])), axis=0)
    flat = net.op("Reshape", net.op("Relu", value), target)
    return net.done((net.op("Gemm", flat, net.weight("w", 3, 64), net.weight("b", 3), transB=1), ("batch", 3)))


def empty() -> Graph:
    net = Net("empty")
    return net.done((net.input("x", 4, 6), (4, 6)))


def constant_nodes() -> Graph:
    net = Net("constant_nodes")
    weight, bias = net.weight("w", 6, 3), net.weight("b", 3)
    for value in (weight, bias):
        value.node = ConstantNode(f"/{value.name}")
    value = net.op("MatMul", net.input("x", 4, 6), weight)
    return net.done((net.op("Add", value, bias), (4, 3)))


def constant_of_shape() -> Graph:
    net = Net("constant_of_shape")
    shape = net.constant("shape", np.array([6, 3]))
    weight = net.op("ConstantOfShape", shape, value=Tensor(np.array([0.5], np.float32)))
    return net.done((net.op("MatMul", net.input("x", 4, 6), weight), (4, 3)))


def unused_op() -> Graph:
    net = Net("unused_op")
    x = net.input("x", 4, 6)
    net.op("Exp", net.op("MatMul", x, net.weight("idle", 6, 2), to="aside"))
    net.weight("unread", 3)
    return net.done((net.op("MatMul", x, net.weight("w", 6, 3)), (4, 3)))


def duplicated_subexpressions() -> Graph:
    net = Net("duplicated_subexpressions")
    x = net.input("x", 4, 6)
    weight = net.weight("w", 6, 6)
    twin = net.constant("twin", weight.const.numpy() if weight.const else ())
    left = net.op("Relu", net.op("MatMul", x, weight))
    right = net.op("Relu", net.op("MatMul", x, weight))
    third = net.op("Relu", net.op("MatMul", x, twin))
    return net.done((net.op("Sum", left, right, third), (4, 6)))


def identity_chain() -> Graph:
    net = Net("identity_chain")
    value = net.op("Identity", net.op("Identity", net.input("x", 4, 6)))
    value = net.op("MatMul", value, net.op("Identity", net.weight("w", 6, 3)))
    return net.done((net.op("Identity", net.op("Identity", value), to="y"), (4, 3)))


def optional_left_out() -> Graph:
    net = Net("optional_left_out")
    value = net.op("Clip", net.input("x", 1, 2, 4, 4), None, net.constant("most", np.float32(0.75)))
    value = net.op("Resize", value, None, net.constant("scales", np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return net.done((net.conv(value, "conv", 3, 2, 1, 1), (1, 3, 8, 8)))


def overridable_input() -> Graph:
    net = Net("overridable_input")
    value = net.op("MatMul", net.input("x", 4, 6), net.weight("w", 6, 3))
    default = net.scale("gain", 3)
    net.graph.set_interface(inputs=[*net.graph.inputs, default])
    return net.done((net.op("Mul", value, default), (4, 3)))


_ALL: tuple[Callable[[], Graph], ...] = (
    conv_bn_relu,
    conv_no_bias,
    residual,
    depthwise,
    grouped_conv,
    concat,
    gemm_mlp,
    matmul_mlp,
    attention,
    shared_weight,
    weight_output,
    duplicate_input,
    if_captures,
    nested_if,
    decided_if,
    loop,
    scan,
    function_call,
    dynamic_batch,
    empty,
    constant_nodes,
    constant_of_shape,
    unused_op,
    duplicated_subexpressions,
    identity_chain,
    optional_left_out,
    overridable_input,
)


def tiny_graphs() -> dict[str, Callable[[], Graph]]:
    """Each graph's builder by name; every call builds it anew, with the same weights."""
    return {build.__name__: build for build in _ALL}


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, NDArray[Any]]:
    """One batch for the inputs that a caller must give: normal floats, coin flips, integers 0 and 1."""
    random = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in graph.inputs:
        if value.const is not None:
            continue
        kind = value.type
        assert isinstance(kind, TensorType) and kind.shape is not None, f"{value} needs a type to be fed"
        shape = [dim if isinstance(dim, int) else SYMBOL_SIZE for dim in kind.shape]
        if kind.dtype.is_float:
            feeds[value.name] = np.asarray(random.normal(size=shape)).astype(kind.dtype.numpy)
        else:
            feeds[value.name] = np.asarray(random.integers(0, 2, shape)).astype(kind.dtype.numpy)
    return feeds


def packed_heads() -> Graph:
    """x [3, 11, 64] through one product to queries, keys and values, each reshaped to heads: as in GPT-2."""
    graph = Graph()
    x = add_input(graph, "x", [3, 11, 64])
    weight = add_constant(graph, "w", np.random.default_rng(0).normal(size=(64, 192)).astype(np.float32))
    biased = emit(
        graph, "Add", [emit(graph, "MatMul", [x, weight]).output, add_constant(graph, "b", np.ones(192, np.float32))]
    )
    parts = emit(graph, "Split", [biased.output], {"axis": 2, "num_outputs": 3}, outputs=["q", "k", "v"])
    heads = add_constant(graph, "heads", np.array([3, 11, 4, -1]))
    made = [emit(graph, "Reshape", [part, heads]).output for part in parts.outputs]
    made = [
        emit(graph, "Transpose", [one], {"perm": [0, 2, 1, 3]}, outputs=[f"y{at}"]).output
        for at, one in enumerate(made)
    ]
    for one in made:
        one.type = TensorType(DataType.FLOAT32, (3, 4, 11, 16))
    graph.set_interface(outputs=made)
    return graph
