"""Ops that sum over a shared axis: what is contracted agrees, the rest passes."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.pointwise import broadcast_layouts

SPACE = "moves over positions in space"
KERNEL = "has a kernel of this size"


@dims_rules.register("MatMul")
def matmul(axes: Axes) -> None:
    """[.., m, k] x [.., k, n] gives [.., m, n]; leading axes broadcast; a vector has no m or no n."""
    left, right = axes.input(0), axes.input(1)
    rows = left[-2:-1] if len(left) > 1 else []
    columns = right[-1:] if len(right) > 1 else []
    axes.unify(left[-1], right[-2] if len(right) > 1 else right[-1])
    leading = [operand[:-2] for operand in (left, right) if len(operand) > 2]
    axes.output([*(broadcast_layouts(axes, leading) if leading else []), *rows, *columns])


@dims_rules.register("Gemm")
def gemm(axes: Axes) -> None:
    """A' x B' + C, either transposed."""
    left, right = axes.input(0), axes.input(1)
    rows, inner = reversed(left) if axes.attribute("transA", 0) else left
    depth, columns = reversed(right) if axes.attribute("transB", 0) else right
    axes.unify(inner, depth)
    made = [rows, columns]
    if axes.has(2):
        made = broadcast_layouts(axes, [made, axes.input(2)])
    axes.output(made)


@dims_rules.register("Conv")
def conv(axes: Axes) -> None:
    """Channels are groups times channels of a group, on both sides; groups are shared."""
    data, weight = axes.input(0), axes.input(1)
    group = axes.attribute("group", 1)
    groups = axes.axis(group, f"groups of {axes.op}")
    produced = axes.size(axes.op.input(1), 0)
    if produced is None or produced % group:
        raise Unruly(f"{axes.op}: the number of its output channels is not known")
    made: Layout = (*groups, *axes.axis(produced // group, axes.op.title))
    axes.unify(data[1], (*groups, *weight[1]))
    axes.unify(weight[0], made)
    _channels_out(axes, made, data, weight)


@dims_rules.register("ConvTranspose")
def conv_transpose(axes: Axes) -> None:
    """As Conv, with the weight's first two axes the other way round."""
    data, weight = axes.input(0), axes.input(1)
    groups = axes.axis(axes.attribute("group", 1), f"groups of {axes.op}")
    read = axes.size(axes.op.input(1), 0)
    if read is None:
        raise Unruly(f"{axes.op}: the number of its input channels is not known")
    inner = axes.axis(read // axes.attribute("group", 1), axes.op.title)
    axes.unify(data[1], (*groups, *inner))
    axes.unify(weight[0], (*groups, *inner))
    _channels_out(axes, (*groups, *weight[1]), data, weight)


def _channels_out(axes: Axes, made: Layout, data: Layouts, weight: Layouts) -> None:
    if axes.has(2):
        axes.unify(made, axes.input(2)[0])
    for layout in weight[2:]:
        axes.pin(layout, KERNEL)
    space = axes.fresh_output()[2:]
    for layout in (*space, *data[2:]):
        axes.pin(layout, SPACE)
    axes.output([data[0], made, *space])


@dims_rules.register("Einsum")
def einsum(axes: Axes) -> None:
    """Axes of one letter are the same; a letter that the output lacks is summed over."""
    terms, _, made = str(axes.attribute("equation", "")).replace(" ", "").partition("->")
    operands = terms.split(",")
    if not made or "." in terms or len(operands) != len(axes.op.inputs):
        raise Unruly(f"{axes.op}: an equation {terms!r} with an ellipsis or without an output")
    letters: dict[str, Layout] = {}
    for port, term in enumerate(operands):
        for letter, layout in zip(term, axes.input(port), strict=True):
            if letters.get(letter) and layout:
                axes.unify(letters[letter], layout)
            letters[letter] = letters.get(letter) or layout
    axes.output([letters.get(letter, ()) for letter in made])


def attention_heads(axes: Axes, kv_heads: int, q_heads: int) -> tuple[Layout, Layout]:
    """Key-value heads, and query heads for each of them."""
    return axes.axis(kv_heads, f"heads of {axes.op}"), axes.axis(q_heads // kv_heads, f"query heads of {axes.op}")


@dims_rules.register("Attention")
def attention(axes: Axes) -> None:
    """softmax(Q K^T) V: query heads are groups of key-value heads; Q and K share a width, V and the output another."""
    query, key, value = (axes.input(port) for port in range(3))
    flat = len(query) == 3
    q_heads = axes.attribute("q_num_heads") if flat else axes.size(axes.op.input(0), 1)
    kv_heads = axes.attribute("kv_num_heads") if flat else axes.size(axes.op.input(1), 1)
    if not q_heads or not kv_heads or q_heads % kv_heads:
        raise Unruly(f"{axes.op}: its heads are not known")
    heads, repeat = attention_heads(axes, kv_heads, q_heads)
    inner, outer = _width(axes, 1, flat, kv_heads), _width(axes, 2, flat, kv_heads)
    for operand, layout, front in ((query, inner, (*heads, *repeat)), (key, inner, heads), (value, outer, heads)):
        if flat:
            axes.unify(operand[2], (*front, *layout))
        else:
            axes.unify(operand[1], front)
            axes.unify(operand[3], layout)
    axes.unify(key[-2], value[-2])
    if axes.has(3) and len(mask := axes.input(3)) == 4 and mask[1]:
        axes.unify(mask[1], (*heads, *repeat))
    if len([made for made in axes.op.outputs if made is not None]) > 1 or axes.has(4) or axes.has(5):
        for operand in (query, key, value):
            for layout in operand:
                axes.pin(layout, "keeps keys and values of the past")
    made = [query[0], query[1], (*heads, *repeat, *outer)]
    axes.output(made if flat else [query[0], (*heads, *repeat), query[2], outer])


def _width(axes: Axes, port: int, flat: bool, heads: int) -> Layout:
    size = axes.size(axes.op.input(port), -1)
    if size is None:
        raise Unruly(f"{axes.op}: the width of its heads is not known")
    return axes.axis(size // heads if flat else size, f"head width of {axes.op}")


def whole(layouts: Layouts) -> list[Dim]:
    """All axes as one run."""
    return [dim for layout in layouts for dim in layout]
