"""Ops on quantized numbers: scales and zero points go with an axis, or hold a block of its indices each."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all
from secateur.ir.dims.rules.contractions import convolve, product


@dims_rules.register(
    *"QuantizeLinear DequantizeLinear com.microsoft::QuantizeLinear com.microsoft::DequantizeLinear".split()
)
def quantize(axes: Axes) -> None:
    """Everything passes; scales and zero points lie along one axis, or hold a block of indices each."""
    data = axes.input(0)
    axis, block = axes.attribute("axis", 1) % max(len(data), 1), axes.attribute("block_size", 0)
    for port in (1, 2):
        if not axes.has(port) or not (scale := axes.input(port)):
            continue
        if len(scale) == 1:
            fit(axes, [data[axis]], scale)
        elif len(scale) == len(data):
            for place, (mine, theirs) in enumerate(zip(data, scale, strict=True)):
                if place == axis and block:
                    _blocks(axes, mine, theirs, block)
                else:
                    fit(axes, [mine], [theirs])
        else:
            raise Unruly(f"{axes.op}: its scale has {len(scale)} axes")
    axes.output(data)


def _blocks(axes: Axes, layout: Layout, coarse: Layout, block: int) -> None:
    """Every `block` indices share a scale: they stay or go together."""
    inner: Layout = (Dim(block, axes.op.title),)
    axes.pin(inner, f"scales {block} of them together")
    if size_of(layout) == block * (size_of(coarse) or 0):
        axes.unify(layout, (*coarse, *inner))
    else:
        pin_all(axes, [layout, coarse], f"scales {block} of them together")


@dims_rules.register("DynamicQuantizeLinear")
def quantize_dynamically(axes: Axes) -> None:
    """Everything passes; the scale comes from the largest of all elements."""
    for layout in axes.input(0):
        axes.inexact(layout, "takes the range of everything")
    axes.output(axes.input(0))
    axes.output([], 1)
    axes.output([], 2)


@dims_rules.register("ConvInteger")
def conv_integer(axes: Axes) -> None:
    """As Conv; the weight's zero point may lie along its output channels."""
    made = convolve(axes, axes.input(0), axes.input(1))
    _along(axes, made, 3)


@dims_rules.register("QLinearConv")
def qlinear_conv(axes: Axes) -> None:
    """As Conv; the weight's scale and zero point may lie along its output channels, where the bias does."""
    made = convolve(axes, axes.input(0), axes.input(3))
    _along(axes, made, 4, 5, 8)


@dims_rules.register("MatMulInteger")
def matmul_integer(axes: Axes) -> None:
    """As MatMul; zero points may lie along rows of the left or columns of the right operand."""
    left, right = axes.input(0), axes.input(1)
    axes.output(product(axes, left, right))
    _scales(axes, left[-2:-1], 2)
    _scales(axes, right[-1:], 3)


@dims_rules.register("QLinearMatMul")
def qlinear_matmul(axes: Axes) -> None:
    """As MatMul; scales and zero points may lie along rows of the left or columns of the right operand."""
    left, right = axes.input(0), axes.input(3)
    axes.output(product(axes, left, right))
    _scales(axes, left[-2:-1], 1, 2)
    _scales(axes, right[-1:], 4, 5)
    _scales(axes, left[-2:-1], 6, 7)


def _scales(axes: Axes, layouts: Layouts, *ports: int) -> None:
    """Scalars, or one number for each index of a row or column axis; more axes than one are not followed."""
    for port in ports:
        if axes.has(port) and (scale := axes.input(port)):
            if len(scale) > 1:
                raise Unruly(f"{axes.op}: its scales have {len(scale)} axes")
            fit(axes, layouts, scale)


def _along(axes: Axes, layout: Layout, *ports: int) -> None:
    for port in ports:
        if axes.has(port):
            fit(axes, [layout], axes.input(port))


@dims_rules.register("com.microsoft::MatMulNBits")
def matmul_packed(axes: Axes) -> None:
    """A [.., k] times B [n, blocks of k, bytes]: columns are free, rows go in whole blocks, scales [n, blocks]."""
    data, weight, scales = axes.input(0), axes.input(1), axes.input(2)
    block, bits, rows = axes.attribute("block_size"), axes.attribute("bits", 4), axes.attribute("K")
    count = -(-rows // block)
    columns = axes.axis(axes.attribute("N"), axes.op.title)
    blocks = axes.axis(count, f"blocks of {axes.op}")
    inner: Layout = (Dim(block, axes.op.title),)
    axes.pin(inner, f"packs {block} of them together")
    if rows == count * block:
        axes.unify(data[-1], (*blocks, *inner))
    else:
        pin_all(axes, [data[-1], blocks], f"packs {block} of them together, and the last block is not full")
    axes.unify(weight[0], columns)
    if len(weight) == 3:
        axes.unify(weight[1], blocks)
        axes.pin(weight[2], "packs them")
    else:
        raise Unruly(f"{axes.op}: its weight is not [n, blocks, bytes]")
    axes.unify([dim for layout in scales for dim in layout], (*columns, *blocks))
    if axes.has(3):
        _zero_points(axes, columns, blocks, bits)
    if axes.has(4):
        axes.pin(data[-1], "scales them in another order")
        pin_all(axes, axes.input(4), "scales them in another order")
    if axes.has(5):
        axes.unify(axes.input(5)[0], columns)
    axes.output([*data[:-1], columns])


def _zero_points(axes: Axes, columns: Layout, blocks: Layout, bits: int) -> None:
    """[n, blocks], or several blocks in a byte: then their number must stay."""
    zeros = axes.input(3)
    flat = [dim for layout in zeros for dim in layout]
    each = (size_of(flat) or 0) // (size_of(columns) or 1)
    if each == (size_of(blocks) or 1):
        axes.unify(flat, (*columns, *blocks))
        return
    packed = axes.axis(each, axes.op.title)
    pin_all(axes, [blocks, packed], f"packs zero points of {8 // bits} blocks into a byte")
    axes.unify(flat, (*columns, *packed))
