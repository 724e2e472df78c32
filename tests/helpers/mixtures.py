"""Small mixtures of experts, written in the ways that exporters and people write them, and starved experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from helpers.graphs import Net

from secateur.ir import DataType, Graph, Value
from secateur.ir.build import add_constant, emit
from secateur.ir.dims.groups import Group

TOKENS, HIDDEN, INNER, EXPERTS, TAKEN = 7, 6, 9, 5, 2
STARVED = -1e30
"""A logit whose share is zero and that is never among the best."""


def starve(graph: Graph, group: Group, gone: Sequence[int]) -> None:
    """Adds so much to the logits of these experts that nothing goes to them: what a model without them computes."""
    logits = group.weights[0].use.op.output
    low = np.zeros(group.size, np.float32)
    low[list(gone)] = STARVED
    readers = graph.consumers(logits)
    starved = emit(graph, "Add", [logits, add_constant(graph, "starved", low)]).output
    for op in readers:
        graph.set_inputs(op, [starved if value is logits else value for value in op.inputs])


def _vector(net: Net, *numbers: int) -> Value:
    return net.constant("numbers", np.array(numbers))


def _routed(net: Net) -> tuple[Value, Value]:
    """Tokens, and a logit of each expert for each token."""
    tokens = net.op("MatMul", net.input("x", TOKENS, 4), net.weight("stem", 4, HIDDEN), to="tokens")
    return tokens, net.op("MatMul", tokens, net.weight("router", HIDDEN, EXPERTS), to="logits")


def _start(net: Net) -> tuple[Value, Value]:
    """Tokens, and a share of each expert for each token, with a router that has a bias."""
    tokens, logits = _routed(net)
    return tokens, net.op("Softmax", net.op("Add", logits, net.weight("router.bias", EXPERTS)), to="shares")


def _expert(net: Net, value: Value, index: int) -> Value:
    up = net.op("Gemm", value, net.weight(f"up{index}", HIDDEN, INNER), net.weight(f"up{index}.bias", INNER))
    down = net.weight(f"down{index}", INNER, HIDDEN)
    return net.op("Gemm", net.op("Gelu", up), down, net.weight(f"down{index}.bias", HIDDEN), to=f"expert{index}")


def _end(net: Net, tokens: Value, mixed: Value) -> Graph:
    trunk = net.op("Add", tokens, mixed, to="trunk")
    return net.done((net.op("MatMul", trunk, net.weight("head", HIDDEN, 3), to="y"), (TOKENS, 3)))


def _chain(net: Net, parts: Sequence[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = net.op("Add", total, part, to="sum")
    return total


def _weighted(net: Net, tokens: Value, shares: Sequence[Value]) -> list[Value]:
    """Each expert's output times its share [tokens, 1]."""
    return [net.op("Mul", _expert(net, tokens, index), share, to=f"part{index}") for index, share in enumerate(shares)]


def _columns_gathered(net: Net, shares: Value, count: int = EXPERTS) -> list[Value]:
    return [
        net.op("Unsqueeze", net.op("Gather", shares, net.constant("at", np.array(index)), axis=1), _vector(net, 1))
        for index in range(count)
    ]


def _columns_listed(net: Net, shares: Value) -> list[Value]:
    return [net.op("Gather", shares, _vector(net, index - EXPERTS), axis=1) for index in range(EXPERTS)]


def _columns_sliced(net: Net, shares: Value) -> list[Value]:
    return [
        net.op("Slice", shares, _vector(net, index), _vector(net, index + 1), _vector(net, 1))
        for index in range(EXPERTS)
    ]


def _columns_split(net: Net, shares: Value) -> list[Value]:
    made = emit(net.graph, "Split", [shares], {"axis": 1, "num_outputs": EXPERTS}, outputs=["share"] * EXPERTS)
    return [value for value in made.outputs if value is not None]


def _columns_split_by_sizes(net: Net, shares: Value) -> list[Value]:
    sizes = _vector(net, *[1] * EXPERTS)
    made = emit(net.graph, "Split", [shares, sizes], {"axis": 1}, outputs=["share"] * EXPERTS)
    return [value for value in made.outputs if value is not None]


def soft(columns: Callable[[Net, Value], list[Value]] = _columns_gathered, *, sum_of_all: bool = False) -> Graph:
    """Every expert sees every token; all shares count."""
    net = Net(f"soft {columns.__name__} {sum_of_all}")
    tokens, shares = _start(net)
    parts = _weighted(net, tokens, columns(net, shares))
    return _end(net, tokens, net.op("Sum", *parts) if sum_of_all else _chain(net, parts))


def soft_but_one() -> Graph:
    """The last expert has a share, and nothing to give."""
    net = Net("soft but one")
    tokens, shares = _start(net)
    return _end(net, tokens, _chain(net, _weighted(net, tokens, _columns_gathered(net, shares, EXPERTS - 1))))


def soft_to_the_output() -> Graph:
    """The mixture is all that there is."""
    net = Net("soft to the output")
    tokens, shares = _start(net)
    return net.done((_chain(net, _weighted(net, tokens, _columns_gathered(net, shares))), (TOKENS, HIDDEN)))


def exact() -> Graph:
    """Shares that do not know of each other: removing an expert is nothing but masking it."""
    net = Net("exact")
    tokens, logits = _routed(net)
    shares = net.op("Sigmoid", logits)
    return _end(net, tokens, _chain(net, _weighted(net, tokens, _columns_gathered(net, shares))))


def _best(net: Net, shares: Value) -> tuple[Value, Value]:
    made = emit(net.graph, "TopK", [shares, _vector(net, TAKEN)], outputs=["best", "which"])
    assert made.outputs[1] is not None
    return made.output, made.outputs[1]


def compared() -> Graph:
    """Routed: `which == e` says which tokens go to an expert; its outputs are added where they came from."""
    net = Net("compared")
    tokens, shares = _start(net)
    best, which = _best(net, shares)
    total = net.constant("zeros", np.zeros((TOKENS, HIDDEN), np.float32))
    for index in range(EXPERTS):
        found = net.op("NonZero", net.op("Equal", which, net.constant("number", np.array(index))))
        rows, slot = net.op("Gather", found, _vector(net, 0)), net.op("Gather", found, _vector(net, 1))
        row = net.op("Transpose", rows, perm=[1, 0])
        where = net.op("Concat", row, net.op("Transpose", slot, perm=[1, 0]), axis=1)
        share = net.op("Unsqueeze", net.op("GatherND", best, where), _vector(net, 1))
        chosen = net.op("GatherND", tokens, row)
        part = net.op("Mul", _expert(net, chosen, index), share)
        total = net.op("ScatterND", total, row, part, reduction="add", to=f"total{index}")
    return _end(net, tokens, total)


def masked(*, by_where: bool = False) -> Graph:
    """Every expert sees every token; `which == e` says how much of it counts."""
    net = Net(f"masked {by_where}")
    tokens, shares = _start(net)
    best, which = _best(net, shares)
    if by_where:
        which = emit(net.graph, "Cast", [which], {"to": int(DataType.FLOAT32)}).output
    found = []
    for index in range(EXPERTS):
        kind = np.float32 if by_where else np.int64
        mine = net.op("Equal", net.constant("number", np.array([index], kind)), which)
        if by_where:
            share = net.op("Where", mine, best, net.constant("nothing", np.float32(0)))
        else:
            share = net.op("Mul", best, emit(net.graph, "Cast", [mine], {"to": int(DataType.FLOAT32)}).output)
        found.append(net.op("ReduceSum", share, _vector(net, 1), keepdims=1))
    return _end(net, tokens, _chain(net, _weighted(net, tokens, found)))


def batched() -> Graph:
    """Every expert sees every token, all in one product of stacked matrices."""
    net = Net("batched")
    tokens, shares = _start(net)
    best, which = _best(net, shares)
    table = net.constant("table", np.zeros((TOKENS, EXPERTS), np.float32))
    shares = net.op("Transpose", net.op("ScatterElements", table, which, best, axis=1), perm=[1, 0])
    copies = net.op("Expand", net.op("Unsqueeze", tokens, _vector(net, 0)), _vector(net, EXPERTS, TOKENS, HIDDEN))
    value = net.op("Gelu", net.op("MatMul", copies, net.weight("up", EXPERTS, HIDDEN, INNER)))
    value = net.op("MatMul", value, net.weight("down", EXPERTS, INNER, HIDDEN))
    shown = net.op("Mul", value, net.op("Unsqueeze", shares, _vector(net, 2)))
    return _end(net, tokens, net.op("ReduceSum", shown, _vector(net, 0), keepdims=0))


def compressed() -> Graph:
    """Routed by a mask over tokens: rows of each expert by Compress, written over zeros."""
    net = Net("compressed")
    tokens, shares = _start(net)
    which = net.op("ArgMax", shares, axis=1, keepdims=0)
    rows = net.constant("rows", np.arange(TOKENS).reshape(-1, 1))
    total = net.op("Mul", tokens, net.constant("nothing", np.zeros((), np.float32)))
    for index in range(EXPERTS):
        mask = net.op("Equal", which, _vector(net, index))
        chosen, where = net.op("Compress", tokens, mask, axis=0), net.op("Compress", rows, mask, axis=0)
        total = net.op("ScatterND", total, where, _expert(net, chosen, index), to=f"total{index}")
    return _end(net, tokens, total)


def stacked(*, clipped: bool = False, both: bool = False) -> Graph:
    """Routed by weights: the matrices of the best experts are picked for each token."""
    net = Net(f"stacked {clipped} {both}")
    tokens, shares = _start(net)
    best, which = _best(net, shares)
    if clipped:
        which = net.op("Clip", which, None, net.constant("last", np.array(EXPERTS - 1)))
    up, down = net.weight("up", EXPERTS, INNER, HIDDEN), net.weight("down", EXPERTS, HIDDEN, INNER)
    column = net.op("Reshape", tokens, _vector(net, TOKENS, 1, HIDDEN, 1))
    value = net.op("Gelu", net.op("MatMul", net.op("Gather", up, which, axis=0), column))
    if both:  # the row of the tokens in the first column, beside the expert in the second
        first = net.constant("first", np.zeros((TOKENS, TAKEN, 1), np.int64))
        where = net.op("Concat", first, net.op("Unsqueeze", which, _vector(net, 2)), axis=-1)
        matrices = net.op("GatherND", net.op("Unsqueeze", down, _vector(net, 0)), where)
    else:
        matrices = net.op("GatherND", down, net.op("Unsqueeze", which, _vector(net, 2)))
    value = net.op("MatMul", matrices, value)
    shown = net.op("Mul", value, net.op("Unsqueeze", best, _vector(net, 2, 3)))
    mixed = net.op("ReduceSum", net.op("Squeeze", shown, _vector(net, 3)), _vector(net, 1), keepdims=0)
    return _end(net, tokens, mixed)


def scattered() -> Graph:
    """Shares of the best are written to where these are, in a table of zeros."""
    net = Net("scattered")
    tokens, shares = _start(net)
    best, which = _best(net, shares)
    rows = net.constant("rows", np.repeat(np.arange(TOKENS), TAKEN).reshape(TOKENS, TAKEN, 1))
    where = net.op("Concat", rows, net.op("Unsqueeze", which, _vector(net, 2)), axis=2)
    table = net.op("ScatterND", net.constant("table", np.zeros((TOKENS, EXPERTS), np.float32)), where, best)
    return _end(net, tokens, _chain(net, _weighted(net, tokens, _columns_sliced(net, table))))


def fused() -> Graph:
    """onnxruntime's own operator."""
    net = Net("fused")
    net.graph.header = net.graph.header.with_opset("com.microsoft", 1)
    tokens, logits = _routed(net)
    weights = [net.weight("fc1", EXPERTS, INNER, HIDDEN), net.weight("fc1.bias", EXPERTS, INNER)]
    weights += [net.weight("fc2", EXPERTS, HIDDEN, INNER), net.weight("fc2.bias", EXPERTS, HIDDEN)]
    options = {"k": TAKEN, "activation_type": "gelu", "normalize_routing_weights": 1}
    return _end(net, tokens, net.op("com.microsoft::MoE", tokens, logits, *weights, to="moe", **options))


MIXTURES: dict[str, Callable[[], Graph]] = {
    "gathered": soft,
    "listed": lambda: soft(_columns_listed),
    "sliced": lambda: soft(_columns_sliced),
    "split": lambda: soft(_columns_split),
    "split by sizes": lambda: soft(_columns_split_by_sizes),
    "sum of all": lambda: soft(sum_of_all=True),
    "all but one": soft_but_one,
    "to the output": soft_to_the_output,
    "exact": exact,
    "compared": compared,
    "compressed": compressed,
    "stacked": stacked,
    "clipped": lambda: stacked(clipped=True),
    "by columns": lambda: stacked(both=True),
    "scattered": scattered,
    "masked": masked,
    "masked by where": lambda: masked(by_where=True),
    "batched": batched,
    "fused": fused,
}


# ---- what must stay whole ------------------------------------------------------------------------------------------


def _stuck(name: str, finish: Callable[[Net, list[Value], Value], Value]) -> Graph:
    net = Net(name)
    tokens, shares = _start(net)
    return _end(net, tokens, finish(net, _weighted(net, tokens, _columns_gathered(net, shares)), shares))


def _biggest(net: Net, parts: list[Value], shares: Value) -> Value:
    return net.op("Max", *parts, to="largest")


def _side_by_side(net: Net, parts: list[Value], shares: Value) -> Value:
    joined = net.op("Concat", *parts, axis=1, to="joined")
    return net.op("MatMul", joined, net.weight("mixer", EXPERTS * HIDDEN, HIDDEN))


def _bias_behind(net: Net, parts: list[Value], shares: Value) -> Value:
    bias = net.weight("bias", HIDDEN)
    return _chain(net, [net.op("Add", part, bias, to=f"shifted{index}") for index, part in enumerate(parts)])


def _shown(net: Net, parts: list[Value], shares: Value) -> Value:
    least = net.op("Gather", shares, net.constant("at", np.array(0)), axis=1, to="watched")
    return net.op("Add", _chain(net, parts), net.op("Exp", net.op("Unsqueeze", least, _vector(net, 1)), to="told"))


def numbers_read() -> Graph:
    """The positions of the best experts are numbers to something else."""
    graph = stacked()
    told = emit(graph, "Cast", [graph["which"]], {"to": int(DataType.FLOAT32)}, outputs=["numbers told"]).output
    graph.set_interface(outputs=[*graph.outputs, told])
    return graph


def cut_off() -> Graph:
    """Positions become truth on their way: all but the first are one."""
    graph = compared()
    which = graph["which"]
    readers = graph.consumers(which)
    truth = emit(graph, "Cast", [which], {"to": int(DataType.BOOL)}, outputs=["truth"]).output
    back = emit(graph, "Cast", [truth], {"to": int(DataType.INT64)}, outputs=["back"]).output
    for op in readers:
        graph.set_inputs(op, [back if value is which else value for value in op.inputs])
    return graph


def told_apart() -> Graph:
    """Positions are compared with one that there is not."""
    graph = compared()
    number = graph["number"]
    (reader,) = graph.consumers(number)
    far = add_constant(graph, "far", np.array(EXPERTS))
    graph.set_inputs(reader, [far if value is number else value for value in reader.inputs])
    return graph


STUCK: dict[str, tuple[Callable[[], Graph], str]] = {
    "largest": (lambda: _stuck("largest", _biggest), "picks from it by index"),
    "side by side": (lambda: _stuck("side by side", _side_by_side), "picks from it by index"),
    "bias behind": (lambda: _stuck("bias behind", _bias_behind), "picks from it by index"),
    "shown": (lambda: _stuck("shown", _shown), "picks from it by index"),
    "cut off": (cut_off, "gives positions on it to Cast"),
    "told apart": (told_apart, "gives positions on it to Equal"),
    "numbers read": (numbers_read, "TopK '-> best' gives positions on it to the output 'numbers told'"),
}
"""Mixtures that cannot lose an expert, each with what the reason says."""
