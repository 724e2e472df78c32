"""Head counts, packed widths, and the scale of scores, which stays that of the head as it was."""

from __future__ import annotations

import math
from itertools import pairwise

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.resize.table import Resizing, resize_rules
from secateur.ir.node import Op

_register = resize_rules.register


@_register("Attention")
def attention(resizing: Resizing, op: Op) -> None:
    """Heads are told where they are not an axis of their own."""
    query, key = resizing.input(op, 0), resizing.input(op, 1)
    if len(query) == 4:
        _keep_scale(resizing, op, query[3], 1)
        return
    _keep_scale(resizing, op, query[2], op.attribute("q_num_heads"))
    _set_heads(resizing, op, "q_num_heads", query[2])
    _set_heads(resizing, op, "kv_num_heads", key[2])


@_register("LinearAttention", "com.microsoft::LinearAttention")
def linear_attention(resizing: Resizing, op: Op) -> None:
    """Heads lie on the last axis."""
    query, key = resizing.input(op, 0), resizing.input(op, 1)
    _keep_scale(resizing, op, query[2], op.attribute("q_num_heads"))
    _set_heads(resizing, op, "q_num_heads", query[2])
    _set_heads(resizing, op, "kv_num_heads", key[2])


@_register("com.microsoft::MultiHeadAttention")
def multi_head_attention(resizing: Resizing, op: Op) -> None:
    """[batch, positions, heads * width], or heads as the third of five axes."""
    query = resizing.input(op, 0)
    packed = len(query) == 5
    _keep_scale(resizing, op, query[-1], 1 if packed else op.attribute("num_heads"))
    _set_heads(resizing, op, "num_heads", query[2])


@_register("com.microsoft::GroupQueryAttention")
def group_query_attention(resizing: Resizing, op: Op) -> None:
    """The output has all query heads, the tables or the keys tell the others."""
    made = resizing.output(op)[2]
    q_heads, kv_heads = op.attribute("num_heads"), op.attribute("kv_num_heads")
    _keep_scale(resizing, op, made, q_heads)
    packed = op.input(1) is None
    columns = resizing.input(op, 0)[2] if packed else resizing.input(op, 1)[2]
    shared = resizing.blocks(columns, q_heads + 2 * kv_heads if packed else kv_heads)
    every = resizing.blocks(made, q_heads)
    resizing.set_attribute(op, "num_heads", every)
    resizing.set_attribute(op, "kv_num_heads", (shared - every) // 2 if packed else shared)


@_register("com.microsoft::Attention")
def packed_attention(resizing: Resizing, op: Op) -> None:
    """Queries, keys and values lie one after the other on the columns of one weight."""
    columns, count = resizing.input(op, 1)[1], op.attribute("num_heads")
    given = op.attribute("qkv_hidden_sizes")
    whole = math.prod(dim.size or 1 for dim in columns)
    before = [int(size) for size in given] if given else [whole // 3] * 3
    stays = resizing.indices(columns)
    ends = [0, before[0], before[0] + before[1], whole]
    after = [int(((stays >= low) & (stays < high)).sum()) for low, high in pairwise(ends)]
    heads = resizing.blocks(resizing.output(op)[2], count)
    if given or len(set(after)) > 1:
        resizing.set_attribute(op, "qkv_hidden_sizes", tuple(after))
    if after[0] // heads != before[0] // count and not op.attribute("scale"):
        resizing.graph.set_attribute(op, "scale", 1 / math.sqrt(before[0] // count))
    resizing.set_attribute(op, "num_heads", heads)


@_register("RotaryEmbedding")
def rotary(resizing: Resizing, op: Op) -> None:
    """How many heads lie on the last axis, and how much of each turns."""
    _rotary(resizing, op, 1)


@_register("com.microsoft::RotaryEmbedding")
def rotary_of_contrib(resizing: Resizing, op: Op) -> None:
    """The same; the tables come third."""
    _rotary(resizing, op, 2)


def _rotary(resizing: Resizing, op: Op, table: int) -> None:
    data, columns = resizing.input(op, 0), resizing.size(resizing.input(op, table)[-1])
    if op.attribute("num_heads", 0):
        heads = resizing.blocks(data[-1], op.attribute("num_heads")) if len(data) == 3 else resizing.size(data[1])
        resizing.set_attribute(op, "num_heads", heads or op.attribute("num_heads"))
    if op.attribute("rotary_embedding_dim", 0) and columns is not None:
        resizing.set_attribute(op, "rotary_embedding_dim", 2 * columns)


def _set_heads(resizing: Resizing, op: Op, name: str, layout: Layout) -> None:
    resizing.set_attribute(op, name, resizing.blocks(layout, op.attribute(name)))


def _keep_scale(resizing: Resizing, op: Op, layout: Layout, heads: int) -> None:
    """Spells the scale that a head's first width gave, where that width changes."""
    before = math.prod(dim.size or 1 for dim in layout) // heads
    after = len(resizing.indices(layout)) // resizing.blocks(layout, heads)
    if after != before and not op.attribute("scale"):
        resizing.graph.set_attribute(op, "scale", 1 / math.sqrt(before))
