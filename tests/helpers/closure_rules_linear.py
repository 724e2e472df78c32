"""What each operator does to masks: ops that contract, normalise, recur, or quantize."""

from __future__ import annotations

from math import prod

import numpy as np
from helpers.closure_masks import Place
from helpers.closure_rules import Visit, named, rules


@rules.register("Conv", "com.microsoft::FusedConv")
def _conv(visit: Visit) -> None:
    """Weight [groups x out, in of a group, kernel]; a group loses all of its inputs with all of its outputs."""
    x, w, y = visit.at(0), visit.at(1), visit.out()
    rest = [""] * (len(visit.shape(w)) - 2)
    sizes = {"group": int(visit.op.attribute("group", 1)), "i": visit.shape(w)[1]}
    members = ((x, ["n", "group i", *rest]), (w, ["group o", "i", *rest]), (y, ["n", "group o", *rest]))
    visit.link(*members, (visit.at(2), ["group o"]), **sizes)
    _pin_kernel(visit, x, w, y)


@rules.register("ConvTranspose")
def _conv_transpose(visit: Visit) -> None:
    """Weight [groups x in, out of a group, kernel]."""
    x, w, y = visit.at(0), visit.at(1), visit.out()
    rest = [""] * (len(visit.shape(w)) - 2)
    sizes = {"group": int(visit.op.attribute("group", 1)), "o": visit.shape(w)[1]}
    members = ((x, ["n", "group i", *rest]), (w, ["group i", "o", *rest]), (y, ["n", "group o", *rest]))
    visit.link(*members, (visit.at(2), ["group o"]), **sizes)
    _pin_kernel(visit, x, w, y)


def _pin_kernel(visit: Visit, *places: Place | None) -> None:
    for place in places:
        for axis in range(2, len(visit.shape(place))):
            visit.pin(place, axis, "kernel", "a kernel runs over it")


@rules.register("Gemm")
def _gemm(visit: Visit) -> None:
    left = ["k", "m"] if visit.op.attribute("transA", 0) else ["m", "k"]
    right = ["n", "k"] if visit.op.attribute("transB", 0) else ["k", "n"]
    visit.link((visit.at(0), left), (visit.at(1), right), (visit.out(), ["m", "n"]))
    visit.spread(visit.at(2), visit.out())


@rules.register("MatMul", "MatMulInteger")
def _matmul(visit: Visit) -> None:
    a, b, y = visit.at(0), visit.at(1), visit.out()
    ranks = len(visit.shape(a)), len(visit.shape(b))
    batch = [f"batch{k}" for k in range(max(0, max(ranks) - 2))]
    left = [*batch[len(batch) - max(0, ranks[0] - 2) :], "m", "k"] if ranks[0] > 1 else ["k"]
    right = [*batch[len(batch) - max(0, ranks[1] - 2) :], "k", "n"] if ranks[1] > 1 else ["k"]
    made = [*batch, *(["m"] if ranks[0] > 1 else []), *(["n"] if ranks[1] > 1 else [])]
    visit.link((a, left), (b, right), (y, made))


@rules.register("Einsum")
def _einsum(visit: Visit) -> None:
    """Letters are labels; an ellipsis stands for trailing batch axes, counted from the right."""
    equation = visit.op.attribute("equation").replace(" ", "")
    terms, _, made = equation.partition("->")
    places = [visit.at(port) for port in range(len(visit.op.inputs))]
    if "->" not in equation or (not made and visit.shape(visit.out())):
        visit.pin_op("unknown", "an equation without its result has no rule here")
        return
    pairs = zip(places, terms.split(","), strict=True)
    members = [(place, _letters(term, len(visit.shape(place)))) for place, term in pairs]
    visit.link(*members, (visit.out(), _letters(made, len(visit.shape(visit.out())))))


def _letters(term: str, rank: int) -> list[str]:
    before, dots, after = term.partition("...")
    batch = rank - len(before) - len(after) if dots else 0
    return [*before, *[f"batch{k}" for k in range(batch, 0, -1)], *after]


@rules.register("BatchNormalization")
def _batch_norm(visit: Visit) -> None:
    x = visit.at(0)
    visit.spread(x, visit.out())
    channels = named(len(visit.shape(x)), ())[:2]
    rest = [""] * (len(visit.shape(x)) - 2)
    vectors = [(visit.at(port), ["axis1"]) for port in range(1, 5)] + [(visit.out(k), ["axis1"]) for k in range(1, 5)]
    visit.link((x, [*channels, *rest]), *vectors)


@rules.register("InstanceNormalization")
def _instance_norm(visit: Visit) -> None:
    x = visit.at(0)
    visit.spread(x, visit.out())
    rest = [""] * (len(visit.shape(x)) - 2)
    visit.link((x, ["", "c", *rest]), (visit.at(1), ["c"]), (visit.at(2), ["c"]))
    for axis in range(2, len(visit.shape(x))):
        visit.blur(x, axis, "norm", "a normalisation runs over it")


@rules.register("GroupNormalization")
def _group_norm(visit: Visit) -> None:
    """Channels are [groups, channels of a group]; scales are one a group before opset 21, one a channel since."""
    x = visit.at(0)
    visit.spread(x, visit.out())
    rest = [""] * (len(visit.shape(x)) - 2)
    groups = int(visit.op.attribute("num_groups"))
    inner = visit.shape(x)[1] // groups
    vector = ["group"] if visit.shape(visit.at(1)) == (groups,) and inner > 1 else ["group c"]
    members = ((x, ["", "group c", *rest]), (visit.at(1), vector), (visit.at(2), vector))
    visit.link(*members, group=groups, c=inner)
    gone = (visit.masks.slabs(x, 1) if x is not None else np.zeros(1, np.bool_)).reshape(groups, inner)
    if not np.array_equal(gone.any(axis=1), gone.all(axis=1)):
        visit.blur(x, 1, "norm", "a normalisation runs over the channels of a group")


@rules.register(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "com.microsoft::SimplifiedLayerNormalization",
)
def _layer_norm(visit: Visit) -> None:
    x, y = visit.at(0), visit.out()
    visit.spread(x, y)
    _scales(visit, y, [visit.at(1), visit.at(2), visit.out(1), visit.out(2)], visit.axis(len(visit.shape(x)), -1))


@rules.register("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def _skip_layer_norm(visit: Visit) -> None:
    """Both normalise input + skip + bias along the last axis; output 3 is that sum."""
    y = visit.out()
    simplified = "Simplified" in visit.op.op_type
    bias, shift = (3, None) if simplified else (4, 3)
    visit.spread(visit.at(0), y)
    visit.spread(y, visit.out(3))
    vectors = [visit.at(1), visit.at(2), visit.at(bias), visit.at(shift) if shift else None, visit.out(1), visit.out(2)]
    _scales(visit, y, vectors, len(visit.shape(y)) - 1)


@rules.register("com.microsoft::EmbedLayerNormalization")
def _embed_layer_norm(visit: Visit) -> None:
    """The sum of rows of up to three tables, normalised; output 2 is that sum."""
    y = visit.out()
    tables = [visit.at(port) for port in (2, 3, 4)]
    visit.link(
        (y, ["n", "t", "c"]), (visit.at(0), ["n", "t"]), (visit.at(1), ["n", "t"]), *((x, ["", "c"]) for x in tables)
    )
    visit.spread(y, visit.out(2))
    _scales(visit, y, [visit.at(5), visit.at(6)], 2)
    for table in tables:
        visit.pin(table, 0, "data", "which of it is needed depends on the data")


def _scales(visit: Visit, y: Place | None, small: list[Place | None], first: int) -> None:
    """What is broadcast to a normalised tensor, and what removal along the normalised axes costs."""
    for place in small:
        if place is not None and prod(visit.shape(place)) > 0:
            visit.spread(place, y)
    for axis in range(first, len(visit.shape(y))):
        visit.blur(y, axis, "norm", "a normalisation runs over it")


@rules.register("LRN")
def _local_response_norm(visit: Visit) -> None:
    x = visit.at(0)
    visit.spread(x, visit.out())
    visit.blur(x, 1, "norm", "a normalisation runs over its neighbours")


@rules.register("LpNormalization", "MeanVarianceNormalization")
def _lp_norm(visit: Visit) -> None:
    x = visit.at(0)
    visit.spread(x, visit.out())
    rank = len(visit.shape(x))
    default = [visit.axis(rank, -1)] if visit.op.op_type == "LpNormalization" else [0, 2, 3]
    for axis in visit.op.attribute("axes", default):
        visit.blur(x, axis % rank, "norm", "a normalisation runs over it")


@rules.register("LSTM", "GRU", "RNN")
def _recurrent(visit: Visit) -> None:
    """W [directions, gates x hidden, in], R [directions, gates x hidden, hidden], B both gates' biases in a row."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[visit.op.op_type]
    sizes = {"!gate": gates, "!both": 2 * gates, "!peep": 3, "h": int(visit.op.attribute("hidden_size"))}
    steps, state = ["s", "n", "i"], ["d", "n", "h"]
    made = ["s", "d", "n", "h"]
    if visit.op.attribute("layout", 0):
        steps, state, made = ["n", "s", "i"], ["n", "d", "h"], ["n", "s", "d", "h"]
    members = [
        (visit.at(0), steps),
        (visit.at(1), ["d", "!gate h", "i"]),
        (visit.at(2), ["d", "!gate h", "h"]),
        (visit.at(3), ["d", "!both h"]),
        (visit.at(4), ["n"]),
        (visit.at(5), state),
        (visit.at(6), state),
        (visit.at(7), ["d", "!peep h"]),
        (visit.out(0), made),
        (visit.out(1), state),
        (visit.out(2), state),
    ]
    visit.masks.link(sizes, *members)
    for place, labels in members:
        for axis, label in enumerate(labels if place is not None else ()):
            if label in ("s", "d"):
                visit.pin(place, axis, "recurrence", "steps and directions stay")


@rules.register("QuantizeLinear", "DequantizeLinear")
def _quantize(visit: Visit) -> None:
    """One scale for all, one an index of an axis, or one a block of an axis: blocks go as a whole."""
    x, y = visit.at(0), visit.out()
    visit.spread(x, y)
    shape, scale = visit.shape(x), visit.shape(visit.at(1))
    axis = visit.axis(len(shape), 1)
    labels = named(len(shape), ())
    if len(scale) == 1 and scale[0] == shape[axis]:
        for port in (1, 2):
            visit.link((x, labels), (visit.at(port), [f"axis{axis}"]))
    elif len(scale) == len(shape) and len(scale) > 1:
        blocked = [*labels[:axis], "block !inside", *labels[axis + 1 :]]
        within = [*labels[:axis], "block", *labels[axis + 1 :]]
        members = [(visit.at(port), within) for port in (1, 2)]
        inside = {"block": scale[axis], "!inside": shape[axis] // max(scale[axis], 1)}
        visit.masks.link(inside, (x, blocked), *members)


@rules.register("com.microsoft::MatMulNBits")
def _matmul_blocks(visit: Visit) -> None:
    """Codes [n, blocks, bytes of a block], scales [n x blocks] or [n, blocks]: whole blocks of the contraction go."""
    x, codes, y = visit.at(0), visit.at(1), visit.out()
    n, blocks = visit.shape(codes)[0], visit.shape(codes)[1]
    batch = named(len(visit.shape(x)) - 1, ())
    sizes = {"n": n, "block": blocks, "!inside": visit.shape(x)[-1] // blocks}
    scales = visit.at(2)
    small = (scales, ["n block"] if len(visit.shape(scales)) == 1 else ["n", "block"])
    members = [(x, [*batch, "block !inside"]), (codes, ["n", "block", ""]), (y, [*batch, "n"]), (visit.at(5), ["n"])]
    visit.masks.link(sizes, *members, small)
    visit.pin(codes, 2, "kernel", "it holds the codes of one block")


@rules.register("com.microsoft::FusedMatMul")
def _fused_matmul(visit: Visit) -> None:
    a, b, y = visit.at(0), visit.at(1), visit.out()
    batch = [f"batch{k}" for k in range(len(visit.shape(y)) - 2)]
    left = ["k", "m"] if visit.op.attribute("transA", 0) else ["m", "k"]
    right = ["n", "k"] if visit.op.attribute("transB", 0) else ["k", "n"]
    if visit.op.attribute("transBatchA", 0) or visit.op.attribute("transBatchB", 0):
        visit.pin_op("unknown", "moved batch axes have no rule here")
        return
    head = [batch[len(batch) - (len(visit.shape(place)) - 2) :] for place in (a, b)]
    visit.link((a, [*head[0], *left]), (b, [*head[1], *right]), (y, [*batch, "m", "n"]))
