"""Attention in one op: heads, query heads that share keys and values, and the widths of a head."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all, same


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


def width_at(axes: Axes, port: int, heads: int | None) -> int | None:
    """The width of each of so many heads on the last axis at a port; None where that is not known."""
    size = axes.size(axes.op.input(port), -1)
    return None if size is None or not heads else size // heads


def sequence(axes: Axes, query: Layout, key: Layout, *, ordered: bool) -> None:
    """What attention does to positions: keys share it, and where it depends on their order, none may go."""
    axes.inexact(key, "shares attention out among them")
    if ordered:
        pin_all(axes, [query, key], "counts positions")


def present(axes: Axes, ports: tuple[int, int], batch: Layout, heads: Heads, total: Layout) -> None:
    """Keys and values with those of the past before them, [batch, heads, positions, width]."""
    axes.output([batch, heads.shared, total, heads.inner], ports[0])
    axes.output([batch, heads.shared, total, heads.outer], ports[1])


def past(axes: Axes, ports: tuple[int, int], batch: Layout, heads: Heads) -> bool:
    """[batch, heads, positions, width], twice; True where there is a past."""
    for port, width in zip(ports, (heads.inner, heads.outer), strict=True):
        if axes.has(port):
            past = axes.input(port)
            fit(axes, [batch, heads.shared, past[2], width], past)
            axes.pin(past[2], "has them behind it")
    return axes.has(ports[0])


def mask(axes: Axes, port: int, front: Layouts, total: Layout) -> None:
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
    heads = Heads.of(axes, q_heads, kv_heads, width_at(axes, 1, each), width_at(axes, 2, each))
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
    sequence(axes, query[-2], length, ordered=bool(ordered))
    total: Layout = (Dim(None, axes.op.title),) if past(axes, (4, 5), batch, heads) else length
    mask(axes, 3, [batch, heads.every, query[-2]], total)
    if axes.has(6):
        same(axes, batch, axes.input(6)[0])
    axes.output(
        [batch, query[1], (*heads.every, *heads.outer)] if flat else [batch, heads.every, query[2], heads.outer]
    )
    present(axes, (1, 2), batch, heads, total)
    axes.output([batch, heads.every, query[-2], total], 3)


def _has_window(axes: Axes) -> bool:
    return any(axes.attribute(name, -1) >= 0 for name in ("left_window_size", "right_window_size"))


@dims_rules.register("LinearAttention", "com.microsoft::LinearAttention")
def linear_attention(axes: Axes) -> None:
    """A state [batch, heads, inner, outer] that positions add to one after the other, decayed and corrected by head."""
    query, key, value = (axes.input(port) for port in range(3))
    q_heads, kv_heads = axes.attribute("q_num_heads"), axes.attribute("kv_num_heads")
    if axes.attribute("state_window", 0):
        raise Unruly(f"{axes.op} keeps several states")
    heads = Heads.of(axes, q_heads, kv_heads, width_at(axes, 1, kv_heads), width_at(axes, 2, kv_heads))
    axes.unify(query[2], (*heads.every, *heads.inner))
    axes.unify(key[2], (*heads.shared, *heads.inner))
    axes.unify(value[2], (*heads.shared, *heads.outer))
    batch, length = same(axes, query[0], key[0], value[0]), same(axes, query[1], key[1], value[1])
    axes.pin(length, "runs along it")
    state: Layouts = [batch, heads.shared, heads.inner, heads.outer]
    if axes.has(3):
        fit(axes, state, axes.input(3))
    if axes.has(4):
        whole = axes.size(axes.op.input(4), -1) != kv_heads
        fit(axes, [batch, length, (*heads.shared, *heads.inner) if whole else heads.shared], axes.input(4))
    if axes.has(5):
        fit(axes, [batch, length, heads.shared], axes.input(5))
    axes.output([batch, length, (*heads.every, *heads.outer)])
    axes.output(state, 1)
