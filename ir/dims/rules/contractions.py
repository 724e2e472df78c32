"""Ops that sum over a shared axis: what is contracted agrees, the rest passes."""

from __future__ import annotations

from secateur.ir.dims.algebra import Dim, Layout, size_of
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all
from secateur.ir.dims.rules.pointwise import broadcast_layouts

SPACE = "moves over positions in space"
KERNEL = "has a kernel of this size"


@dims_rules.register("MatMul")
def matmul(axes: Axes) -> None:
    """[.., m, k] x [.., k, n] gives [.., m, n]; leading axes broadcast; a vector has no m or no n."""
    axes.output(product(axes, axes.input(0), axes.input(1)))


def product(axes: Axes, left: Layouts, right: Layouts) -> Layouts:
    """What MatMul makes of two operands."""
    rows = left[-2:-1] if len(left) > 1 else []
    columns = right[-1:] if len(right) > 1 else []
    axes.unify(left[-1], right[-2] if len(right) > 1 else right[-1])
    leading = [operand[:-2] for operand in (left, right) if len(operand) > 2]
    return [*(broadcast_layouts(axes, leading) if leading else []), *rows, *columns]


@dims_rules.register(*"com.microsoft::FusedMatMul com.microsoft::TransposeMatMul".split())
def fused_matmul(axes: Axes) -> None:
    """MatMul of operands whose last two axes, or whose leading axes and the one before the last, change places."""
    left, right = (_transposed(axes, axes.input(port), "AB"[port]) for port in (0, 1))
    axes.output(product(axes, left, right))


def _transposed(axes: Axes, operand: Layouts, which: str) -> Layouts:
    if len(operand) > 2 and axes.attribute(f"transBatch{which}", 0):
        operand = [*operand[1:-1], operand[0], operand[-1]]
    if len(operand) > 1 and axes.attribute(f"trans{which}", 0):
        operand = [*operand[:-2], operand[-1], operand[-2]]
    return operand


@dims_rules.register("Gemm", "com.microsoft::FusedGemm")
def gemm(axes: Axes) -> None:
    """A' x B' + C, either transposed."""
    left, right = axes.input(0), axes.input(1)
    rows, inner = reversed(left) if axes.attribute("transA", 0) else left
    depth, columns = reversed(right) if axes.attribute("transB", 0) else right
    axes.unify(inner, depth)
    made = [rows, columns]
    if axes.has(2):
        fit(axes, made, axes.input(2))
    axes.output(made)


@dims_rules.register("Conv")
def conv(axes: Axes) -> None:
    """Channels are groups times channels of a group, on both sides; groups are shared."""
    made = convolve(axes, axes.input(0), axes.input(1))
    if axes.has(2):
        axes.unify(made, axes.input(2)[0])


@dims_rules.register("com.microsoft::FusedConv")
def fused_conv(axes: Axes) -> None:
    """Conv, then a sum with what has the shape of the output, then an activation."""
    conv(axes)
    if axes.has(3):
        data = axes.input(3)
        fit(axes, [axes.input(0)[0], axes.input(1)[0]], data[:2])
        pin_all(axes, data[2:], SPACE)


@dims_rules.register("DeformConv")
def deform_conv(axes: Axes) -> None:
    """Conv whose positions are moved: [n, groups of channels * 2 * kernel, ..] says how far, a mask how much."""
    data, offset = axes.input(0), axes.input(2)
    made = convolve(axes, data, axes.input(1))
    if axes.has(3):
        axes.unify(made, axes.input(3)[0])
    count = axes.attribute("offset_group", 1)
    groups, sizes = axes.axis(count, f"offset groups of {axes.op}"), [axes.size(axes.op.input(0), 1)]
    sizes += [axes.size(axes.op.input(port), 1) for port in (2, 4) if axes.has(port)]
    if any(size is None or size % count for size in sizes):
        raise Unruly(f"{axes.op}: the number of its channels is not known")
    widths = [axes.axis((size or 0) // count, axes.op.title) for size in sizes]
    axes.unify(data[1], (*groups, *widths[0]))
    for width, moved in zip(widths[1:], (offset, *([axes.input(4)] if axes.has(4) else [])), strict=True):
        axes.pin(width, KERNEL)
        axes.unify(moved[1], (*groups, *width))
        fit(axes, [data[0]], moved[:1])
        pin_all(axes, moved[2:], SPACE)


def convolve(axes: Axes, data: Layouts, weight: Layouts) -> Layout:
    """Lays out what a convolution with a weight [m, c / group, ..] makes; returns its channels."""
    count, produced = axes.attribute("group", 1), size_of(weight[0])
    if not produced or produced % count:
        raise Unruly(f"{axes.op}: the number of its output channels is not known")
    groups, made = axes.axis(count, f"groups of {axes.title}"), weight[0]
    axes.unify(data[1], (*groups, *weight[1]))
    if groups:
        made = (*groups, *axes.axis(produced // count, axes.title))
        axes.unify(weight[0], made)
    _over_space(axes, made, data, weight)
    return made


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
    made = (*groups, *weight[1])
    if axes.has(2):
        axes.unify(made, axes.input(2)[0])
    _over_space(axes, made, data, weight)


def _over_space(axes: Axes, made: Layout, data: Layouts, weight: Layouts) -> None:
    pin_all(axes, weight[2:], KERNEL)
    space = axes.fresh_output(rank=len(data))[2:]
    pin_all(axes, [*space, *data[2:]], SPACE)
    axes.output([data[0], made, *space])


@dims_rules.register("CausalConvWithState", "com.microsoft::CausalConvWithState")
def causal_conv(axes: Axes) -> None:
    """A depthwise convolution [n, c, positions] that hands its last positions on as a state [n, c, k - 1]."""
    data, weight = axes.input(0), axes.input(1)
    if axes.attribute("channels_last", 0) or axes.attribute("state_window", 0) or len(data) != 3:
        raise Unruly(f"{axes.op} has channels last, several states, or several axes in space")
    axes.unify(data[1], weight[0])
    if axes.has(2):
        axes.unify(data[1], axes.input(2)[0])
    pin_all(axes, [data[2], *weight[2:]], "moves over positions in time")
    state: Layout = (Dim(None, axes.op.title),)
    if axes.has(3):
        past = axes.input(3)
        state = past[2]
        fit(axes, data[:2], past[:2])
        axes.pin(state, "has a kernel of this size")
    axes.output(data)
    axes.output([*data[:2], state], 1)


@dims_rules.register("Einsum")
def einsum(axes: Axes) -> None:
    """Axes of one letter are the same; a letter that the output lacks is summed over; an ellipsis is broadcast."""
    equation = str(axes.attribute("equation", "")).replace(" ", "")
    given, arrow, made = equation.partition("->")
    operands = given.split(",")
    if len(operands) != len(axes.op.inputs):
        raise Unruly(f"{axes.op}: {equation!r} does not have {len(axes.op.inputs)} operands")
    letters: dict[str, Layout] = {}
    rests: list[Layouts] = []
    for port, term in enumerate(operands):
        named, rest = _named(term, axes.input(port))
        rests.append(rest)
        for letter, layout in named:
            if letters.get(letter) and layout:
                axes.unify(letters[letter], layout)
            letters[letter] = letters.get(letter) or layout
    broadcast = broadcast_layouts(axes, rests)
    if not arrow:
        once = [letter for letter in sorted(letters) if given.count(letter) == 1]
        made = ("..." if "..." in given else "") + "".join(once)
    before, dots, behind = made.partition("...")
    axes.output([*(letters[one] for one in before), *(broadcast if dots else []), *(letters[one] for one in behind)])


def _named(term: str, layouts: Layouts) -> tuple[list[tuple[str, Layout]], Layouts]:
    """The axes of an operand that have a letter, and those of its ellipsis."""
    before, dots, behind = term.partition("...")
    end = len(layouts) - len(behind)
    named = [*zip(before, layouts, strict=False), *zip(behind, layouts[end:], strict=True)] if dots else []
    if not dots:
        return list(zip(term, layouts, strict=True)), []
    return named, layouts[len(before) : end]


def whole(layouts: Layouts) -> list[Dim]:
    """All axes as one run."""
    return [dim for layout in layouts for dim in layout]
