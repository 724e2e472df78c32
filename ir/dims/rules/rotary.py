"""Rotary positions: indices turn in pairs, half against half or neighbour against neighbour."""

from __future__ import annotations

import math

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import pin_all, same


def pairs(axes: Axes, width: Layout, rotated: int, *, interleaved: bool) -> Layout:
    """Of the first `rotated` indices, those that turn together are tied; returns one index for each pair."""
    size = math.prod(dim.size or 0 for dim in width)
    found = axes.axis(rotated // 2, f"rotary pairs of {axes.op}")
    two: Layout = (Dim(2, axes.op.title),)
    axes.pin(two, "turns them in pairs")
    parts = [width] if rotated == size else axes.split(width, [rotated, size - rotated])
    if parts is None or rotated % 2 or rotated > size:
        pin_all(axes, [width, found], f"turns the first {rotated} of {size}")
        return found
    axes.unify(parts[0], (*found, *two) if interleaved else (*two, *found))
    return found


@dims_rules.register("RotaryEmbedding")
def rotary(axes: Axes) -> None:
    """[batch, heads, positions, width], or [batch, positions, heads * width] with the number of heads told."""
    _rotary(axes, (1, 2), 3)


@dims_rules.register("com.microsoft::RotaryEmbedding")
def rotary_of_contrib(axes: Axes) -> None:
    """The same with other ports; where the number of heads is not told, the tables tell how wide one is."""
    if axes.attribute("is_packed_batching", 0):
        raise Unruly(f"{axes.op} packs sequences of many lengths")
    _rotary(axes, (2, 3), 1)


def _rotary(axes: Axes, tables: tuple[int, int], positions: int) -> None:
    data = axes.input(0)
    size, columns = axes.size(axes.op.input(0), -1), axes.size(axes.op.input(tables[0]), -1)
    if size is None or columns is None:
        raise Unruly(f"{axes.op}: the width of its heads is not known")
    count = axes.attribute("num_heads", 0) or size // (2 * columns)
    whole = size if len(data) == 4 else size // count
    width = axes.axis(whole, f"head width of {axes.op}")
    axes.unify(data[-1], width if len(data) == 4 else (*axes.axis(count, f"heads of {axes.op}"), *width))
    found = pairs(axes, width, 2 * columns, interleaved=bool(axes.attribute("interleaved", 0)))
    batch, length = data[0], data[2 if len(data) == 4 else 1]
    given = axes.has(positions)
    if given:
        _read_positions(axes, axes.input(positions), batch, length)
    for port in tables:
        table = axes.input(port)
        axes.unify(table[-1], found)
        if given:
            pin_all(axes, table[:-1], "picks from it by position")
        else:
            same(axes, batch, table[0])
            same(axes, length, table[1])
    axes.output(data)


def _read_positions(axes: Axes, ids: Layouts, batch: Layout, length: Layout) -> None:
    if len(ids) == 2:
        same(axes, batch, ids[0])
        same(axes, length, ids[1])
    else:
        axes.pin(length, "counts positions")
