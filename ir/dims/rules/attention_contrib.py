"""The attention ops of onnxruntime: packed inputs, packed weights, shared keys with rotary positions built in."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all, same
from secateur.ir.dims.rules.attention import Heads, mask, past, present, sequence, width_at
from secateur.ir.dims.rules.rotary import pairs

_EIGHT = 8
"""GroupQueryAttention of onnxruntime takes heads of a multiple of these, or pairs of columns that turn together."""


@dims_rules.register("com.microsoft::MultiHeadAttention")
def multi_head_attention(axes: Axes) -> None:
    """Heads and widths in the last axis of Q, K and V; or all packed as [batch, positions, heads, 3 or 2, width]."""
    query, count = axes.input(0), axes.attribute("num_heads")
    key = axes.input(1) if axes.has(1) else query
    value = axes.input(2) if axes.has(2) else key
    inner = width_at(axes, 0, count if len(query) == 3 else 1)
    outer = inner if len(value) == 5 else width_at(axes, 2, count if len(value) == 3 else 1)
    heads = Heads.of(axes, count, count, inner, outer)
    batch, length = same(axes, query[0], key[0], value[0]), _length(key)
    for operand, width in ((query, heads.inner), (key, heads.inner), (value, heads.outer)):
        _read_operand(axes, operand, heads.shared, width)
        if len(operand) == 5 or (len(operand) == 4 and operand is not query):
            axes.unify(heads.inner, heads.outer)
    same(axes, length, _length(value))
    sequence(axes, query[1], length, ordered=bool(axes.attribute("unidirectional", 0)) or axes.has(9))
    if axes.has(3):
        _read_packed(axes, axes.input(3)[0], heads)
    total: Layout = (Dim(None, axes.op.title),) if past(axes, (6, 7), batch, heads) else length
    if axes.has(4):
        pin_all(axes, axes.input(4), "masks them")
        axes.pin(length, "masks them")
    mask(axes, 5, [batch, heads.shared, query[1]], total)
    axes.output([batch, query[1], (*heads.shared, *heads.outer)])
    present(axes, (1, 2), batch, heads, total)
    axes.output([batch, heads.shared, query[1], total], 3)


def _length(operand: Layouts) -> Layout:
    return operand[2] if len(operand) == 4 else operand[1]


def _read_operand(axes: Axes, operand: Layouts, front: Layout, width: Layout) -> None:
    if len(operand) == 3:
        axes.unify(operand[2], (*front, *width))
        return
    axes.unify(operand[1 if len(operand) == 4 else 2], front)
    axes.unify(operand[-1], width)
    if len(operand) == 5:
        axes.pin(operand[3], "packs queries, keys and values")


def _read_packed(axes: Axes, layout: Layout, heads: Heads, sizes: list[int] | None = None) -> bool:
    """Queries, keys and values one after the other on an axis; False, and pinned, where they do not lie so."""
    wanted = [(*heads.every, *heads.inner), (*heads.shared, *heads.inner), (*heads.shared, *heads.outer)]
    parts = axes.split(layout, sizes or [_size(one) for one in wanted])
    for part, one in zip(parts or (), wanted, strict=False):
        axes.unify(part, one)
    if parts is None:
        for one in wanted:
            axes.pin(one, "finds them packed otherwise")
    return parts is not None


def _size(layout: Layout) -> int:
    total = 1
    for dim in layout:
        total *= dim.size or 0
    return total


@dims_rules.register("com.microsoft::GroupQueryAttention")
def group_query_attention(axes: Axes) -> None:
    """Causal attention whose query heads share keys and values, which are as wide; rotary positions built in."""
    query, q_heads, kv_heads = axes.input(0), axes.attribute("num_heads"), axes.attribute("kv_num_heads")
    packed = not axes.has(1)
    if not kv_heads:
        raise Unruly(f"{axes.op} does not say how many heads it has")
    width = width_at(axes, 0, q_heads + 2 * kv_heads if packed else q_heads)
    heads = Heads.of(axes, q_heads, kv_heads, width, width)
    axes.unify(heads.inner, heads.outer)
    turned = _rotate(axes, heads) if axes.attribute("do_rotary", 0) else heads.inner
    _by_eights(axes, turned)
    batch = query[0]
    if packed:
        _read_packed(axes, query[2], heads)
    else:
        axes.unify(query[2], (*heads.every, *heads.inner))
        for port in (1, 2):
            axes.unify(axes.input(port)[2], (*heads.shared, *heads.inner))
            batch = same(axes, batch, axes.input(port)[0])
            axes.pin(axes.input(port)[1], "counts positions")
    axes.pin(query[1], "counts positions")
    past(axes, (3, 4), batch, heads)
    _beside_group_query(axes, batch, heads)
    total: Layout = (Dim(None, axes.op.title),)
    axes.output([batch, query[1], (*heads.every, *heads.outer)])
    present(axes, (1, 2), batch, heads, total)
    axes.output([batch, heads.every, query[1], total], 3)


def _by_eights(axes: Axes, layout: Layout) -> None:
    """Ties neighbours, so that the width of a head stays what onnxruntime takes."""
    reason = f"takes heads of a multiple of {_EIGHT} only, and twice that where they turn"
    inner: Layout = (Dim(_EIGHT, axes.op.title),)
    axes.pin(inner, reason)
    count = _size(layout) // _EIGHT
    if count * _EIGHT == _size(layout):
        axes.unify(layout, (*axes.axis(count, axes.op.title), *inner))
    else:
        axes.pin(layout, reason)


def _rotate(axes: Axes, heads: Heads) -> Layout:
    """Ties the columns that turn together; returns one for each pair."""
    half = axes.size(axes.op.input(7), -1)
    if half is None:
        raise Unruly(f"{axes.op} makes its rotary positions itself")
    found = pairs(axes, heads.inner, 2 * half, interleaved=bool(axes.attribute("rotary_interleaved", 0)))
    for port in (7, 8):
        rows, columns = axes.input(port)
        axes.pin(rows, "picks from it by position")
        axes.unify(columns, found)
    return found


def _beside_group_query(axes: Axes, batch: Layout, heads: Heads) -> None:
    """Lengths, biases, sinks, scales and norms of queries and keys."""
    for port in (5, 9, 12, 13):
        if axes.has(port):
            pin_all(axes, axes.input(port), "reads it whole")
    if axes.has(5):
        axes.pin(batch, "reads its lengths")
    if axes.has(10):
        fit(axes, [batch, heads.every], axes.input(10)[:2])
        pin_all(axes, axes.input(10)[2:], "counts positions")
    if axes.has(11):
        axes.unify(axes.input(11)[0], heads.every)
    for port in (14, 15):
        if axes.has(port):
            axes.unify(axes.input(port)[0], heads.inner)
            axes.inexact(heads.inner, "normalises over it")


@dims_rules.register("com.microsoft::Attention")
def packed_attention(axes: Axes) -> None:
    """The projections of queries, keys and values are inside, one after the other on the columns of one weight."""
    data, weight, count = axes.input(0), axes.input(1), axes.attribute("num_heads")
    columns = axes.size(axes.op.input(1), 1)
    given = axes.attribute("qkv_hidden_sizes")
    if columns is None or not count:
        raise Unruly(f"{axes.op}: the number or the width of its heads is not known")
    sizes = [int(size) for size in given] if given else [columns // 3] * 3
    heads = Heads.of(axes, count, count, sizes[0] // count, sizes[2] // count)
    axes.unify(data[2], weight[0])
    for layout in (weight[1], axes.input(2)[0]) if axes.has(2) else (weight[1],):
        _read_packed(axes, layout, heads, sizes)
    ordered = bool(axes.attribute("unidirectional", 0))
    if axes.attribute("do_rotary", 0):
        ordered = True
        axes.pin(heads.inner, "turns it by positions")
    length = data[1]
    sequence(axes, length, length, ordered=ordered)
    if axes.has(3):
        pin_all(axes, axes.input(3), "masks them")
        axes.pin(length, "masks them")
    total: Layout = (Dim(None, axes.op.title),) if axes.has(4) else length
    mask(axes, 5, [data[0], heads.shared, length], total)
    axes.output([data[0], length, (*heads.shared, *heads.outer)])
    _stacked_past(axes, data[0], heads, total)


def _stacked_past(axes: Axes, batch: Layout, heads: Heads, total: Layout) -> None:
    """Keys and values of the past in one: [2, batch, heads, positions, width]."""
    if not axes.has(4) and not _is_used(axes, 1):
        return
    axes.unify(heads.inner, heads.outer)
    both = axes.axis(2, axes.op.title)
    axes.pin(both, "stacks keys and values")
    if axes.has(4):
        past = axes.input(4)
        fit(axes, [both, batch, heads.shared, past[3], heads.inner], past)
        axes.pin(past[3], "has them behind it")
    axes.output([both, batch, heads.shared, total, heads.inner], 1)


def _is_used(axes: Axes, *ports: int) -> bool:
    return any(port < len(axes.op.outputs) and axes.op.outputs[port] is not None for port in ports)
