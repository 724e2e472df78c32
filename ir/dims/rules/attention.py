"""Attention in one op: heads, query heads that share keys and values, and the widths of a head."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all, same
from secateur.ir.dims.rules.rotary import pairs


@dataclass(frozen=True)
class Heads:
    """The dimensions of an attention.

    Attributes:
        shared: heads of keys and values.
        repeat: query heads for each of them.
        inner: width of a head in queries and keys, which the scores are summed over.
        outer: width of a head in values and in the output.
    """

    shared: Layout
    repeat: Layout
    inner: Layout
    outer: Layout

    @property
    def every(self) -> Layout:
        """All query heads."""
        return (*self.shared, *self.repeat)

    @staticmethod
    def of(axes: Axes, q_heads: int | None, kv_heads: int | None, inner: int | None, outer: int | None) -> Heads:
        """New dimensions; None for what is not known.

        Raises:
            Unruly: something is not known, or query heads are no multiple of key-value heads.
        """
        if not q_heads or not kv_heads or q_heads % kv_heads or not inner or not outer:
            raise Unruly(f"{axes.op}: the number or the width of its heads is not known")
        return Heads(
            axes.axis(kv_heads, f"heads of {axes.op}"),
            axes.axis(q_heads // kv_heads, f"query heads of {axes.op}"),
            axes.axis(inner, f"head width of {axes.op}"),
            axes.axis(outer, f"head width of {axes.op}"),
        )


def _width(axes: Axes, port: int, heads: int | None) -> int | None:
    size = axes.size(axes.op.input(port), -1)
    return None if size is None or not heads else size // heads


def _is_used(axes: Axes, *ports: int) -> bool:
    return any(port < len(axes.op.outputs) and axes.op.outputs[port] is not None for port in ports)


def _sequence(axes: Axes, query: Layout, key: Layout, *, ordered: bool) -> None:
    """What attention does to positions: keys share it, and where it depends on their order, none may go."""
    axes.inexact(key, "shares attention out among them")
    if ordered:
        pin_all(axes, [query, key], "counts positions")


def _present(axes: Axes, ports: tuple[int, int], batch: Layout, heads: Heads, total: Layout) -> None:
    axes.output([batch, heads.shared, total, heads.inner], ports[0])
    axes.output([batch, heads.shared, total, heads.outer], ports[1])


def _past(axes: Axes, ports: tuple[int, int], batch: Layout, heads: Heads) -> bool:
    """[batch, heads, positions, width], twice; True where there is a past."""
    for port, width in zip(ports, (heads.inner, heads.outer), strict=True):
        if axes.has(port):
            past = axes.input(port)
            fit(axes, [batch, heads.shared, past[2], width], past)
            axes.pin(past[2], "has them behind it")
    return axes.has(ports[0])


def _mask(axes: Axes, port: int, front: Layouts, total: Layout) -> None:
    """A bias on scores: [.., batch, heads, queries, keys], each of which may be one; the keys may be fewer."""
    if not axes.has(port):
        return
    *leading, keys = axes.input(port)
    fit(axes, front, leading)
    if keys and [dim.size for dim in keys] == [dim.size for dim in total]:
        axes.unify(keys, total)
    elif keys:
        pin_all(axes, [keys, total], "masks some of them")


@dims_rules.register("Attention")
def attention(axes: Axes) -> None:
    """softmax(Q K^T) V: query heads are groups of key-value heads; Q and K share a width, V and the output another."""
    query, key, value = (axes.input(port) for port in range(3))
    flat = len(query) == 3
    q_heads = axes.attribute("q_num_heads") if flat else axes.size(axes.op.input(0), 1)
    kv_heads = axes.attribute("kv_num_heads") if flat else axes.size(axes.op.input(1), 1)
    each = kv_heads if flat else 1
    heads = Heads.of(axes, q_heads, kv_heads, _width(axes, 1, each), _width(axes, 2, each))
    for operand, front, width in (
        (query, heads.every, heads.inner),
        (key, heads.shared, heads.inner),
        (value, heads.shared, heads.outer),
    ):
        if flat:
            axes.unify(operand[2], (*front, *width))
        else:
            axes.unify(operand[1], front)
            axes.unify(operand[3], width)
    batch, length = same(axes, query[0], key[0], value[0]), same(axes, key[-2], value[-2])
    ordered = axes.attribute("is_causal", 0) or _has_window(axes) or axes.has(6)
    _sequence(axes, query[-2], length, ordered=bool(ordered))
    total: Layout = (Dim(None, axes.op.title),) if _past(axes, (4, 5), batch, heads) else length
    _mask(axes, 3, [batch, heads.every, query[-2]], total)
    if axes.has(6):
        same(axes, batch, axes.input(6)[0])
    axes.output(
        [batch, query[1], (*heads.every, *heads.outer)] if flat else [batch, heads.every, query[2], heads.outer]
    )
    _present(axes, (1, 2), batch, heads, total)
    axes.output([batch, heads.every, query[-2], total], 3)


def _has_window(axes: Axes) -> bool:
    return any(axes.attribute(name, -1) >= 0 for name in ("left_window_size", "right_window_size"))


@dims_rules.register("com.microsoft::MultiHeadAttention")
def multi_head_attention(axes: Axes) -> None:
    """Heads and widths in the last axis of Q, K and V; or all packed as [batch, positions, heads, 3 or 2, width]."""
    query, count = axes.input(0), axes.attribute("num_heads")
    key = axes.input(1) if axes.has(1) else query
    value = axes.input(2) if axes.has(2) else key
    inner = _width(axes, 0, count if len(query) == 3 else 1)
    outer = inner if len(value) == 5 else _width(axes, 2, count if len(value) == 3 else 1)
    heads = Heads.of(axes, count, count, inner, outer)
    batch, length = same(axes, query[0], key[0], value[0]), _length(key)
    for operand, width in ((query, heads.inner), (key, heads.inner), (value, heads.outer)):
        _read_operand(axes, operand, heads.shared, width)
        if len(operand) == 5:
            axes.unify(heads.inner, heads.outer)
    same(axes, length, _length(value))
    _sequence(axes, query[1], length, ordered=bool(axes.attribute("unidirectional", 0)) or axes.has(9))
    if axes.has(3):
        _read_packed(axes, axes.input(3)[0], heads)
    total: Layout = (Dim(None, axes.op.title),) if _past(axes, (6, 7), batch, heads) else length
    if axes.has(4):
        pin_all(axes, axes.input(4), "masks them")
        axes.pin(length, "masks them")
    _mask(axes, 5, [batch, heads.shared, query[1]], total)
    axes.output([batch, query[1], (*heads.shared, *heads.outer)])
    _present(axes, (1, 2), batch, heads, total)
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
    width = _width(axes, 0, q_heads + 2 * kv_heads if packed else q_heads)
    heads = Heads.of(axes, q_heads, kv_heads, width, width)
    axes.unify(heads.inner, heads.outer)
    if axes.attribute("do_rotary", 0):
        _rotate(axes, heads)
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
    _past(axes, (3, 4), batch, heads)
    _beside_group_query(axes, batch, heads)
    total: Layout = (Dim(None, axes.op.title),)
    axes.output([batch, query[1], (*heads.every, *heads.outer)])
    _present(axes, (1, 2), batch, heads, total)
    axes.output([batch, heads.every, query[1], total], 3)


def _rotate(axes: Axes, heads: Heads) -> None:
    half = axes.size(axes.op.input(7), -1)
    if half is None:
        raise Unruly(f"{axes.op} makes its rotary positions itself")
    found = pairs(axes, heads.inner, 2 * half, interleaved=bool(axes.attribute("rotary_interleaved", 0)))
    for port in (7, 8):
        rows, columns = axes.input(port)
        axes.pin(rows, "picks from it by position")
        axes.unify(columns, found)


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
    _sequence(axes, length, length, ordered=ordered)
    if axes.has(3):
        pin_all(axes, axes.input(3), "masks them")
        axes.pin(length, "masks them")
    total: Layout = (Dim(None, axes.op.title),) if axes.has(4) else length
    _mask(axes, 5, [data[0], heads.shared, length], total)
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
