"""`import-quantized`: what others quantized, in whatever operators, becomes Q/DQ that TensorRT takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.calib.capture import CaptureOptions, capture
from secateur.calib.ranges import Range, amax_max
from secateur.ir import Graph, Op
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_shapes import infer
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import shapes
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.importing import blocks, domains, integer, movers, operators
from secateur.passes.importing.constants import fold, is_operand, numbers_of
from secateur.passes.importing.interface import compute_interface
from secateur.passes.importing.site import Desk, Site, import_rules
from secateur.passes.importing.symmetric import make_symmetric
from secateur.passes.legalize import bias
from secateur.passes.opset import raise_opset
from secateur.passes.parts import parts
from secateur.passes.rewriter import sweep

FAMILIES = (operators, integer, blocks, domains, movers)
"""The modules whose rules make up the table."""

_DYNAMIC = frozenset({("", "DynamicQuantizeLinear"), ("com.microsoft", "DynamicQuantizeMatMul")})
_NEEDED = {
    "MatMulNBits": blocks.OPSET,
    "TRT_FP8QuantizeLinear": domains.FLOAT8_OPSET,
    "TRT_FP8DequantizeLinear": domains.FLOAT8_OPSET,
}
_OLDEST, _LISTS = 10, 13
"""The first opsets with QuantizeLinear, and with a scale for each channel."""


@dataclass(frozen=True)
class ImportQuantized(Pass):
    """Integer operators become float operators between QuantizeLinear and DequantizeLinear, which TensorRT fuses again.

    QLinearConv, QLinearMatMul and onnxruntime's QLinear… operators; MatMulInteger and ConvInteger as dynamic
    quantization writes them; MatMulNBits, whose weight becomes codes in blocks; Q/DQ of onnxruntime's domain. Biases
    become float. Where a scale was computed while the model runs, the value gets one scale of the range that
    calibration data shows; without data it stays in float, and its weight stays quantized. With `zero_points=keep`
    the result agrees with the integer operators up to one step of each scale, as they round once where Q/DQ around
    float rounds twice.
    """

    name: ClassVar[str] = "import-quantized"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    zero_points: Literal["symmetric", "keep"] = "symmetric"
    """Whether tensors with a zero point are quantized anew around 0, as TensorRT wants, or stay as they are."""

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops and tensors were rewritten; notes say what was left, and why.

        Raises:
            RefusedError: the model has what is to be imported, but is of an opset before 10.
        """
        changed = import_operators(graph, context, _ranges(graph, context))
        for part in parts(graph):
            changed += _fold_constants(part, context, biases_only=self.zero_points == "keep")
            if self.zero_points == "symmetric":
                changed += compute_interface(part, context) + make_symmetric(part, context)
        if changed:
            context.manifest.exact = False
        return changed


def _fold_constants(part: Graph, context: Context, *, biases_only: bool) -> int:
    """Biases in int32 become float, and constants that no product reads, which TensorRT takes in float only."""
    done = 0
    for op in part.ops():
        integer = bias.fits(part, op)
        if op.key != ("", "DequantizeLinear") or op.output in part.outputs or (biases_only and not integer):
            continue
        numbers = None if not integer and is_operand(part, op.output) else numbers_of(part, op)
        if numbers is not None and context.allow("constant", op):
            context.row(value=op.output.name, was="int32" if integer else "codes of no product", effect="exact")
            fold(part, op, numbers)
            done += 1
    return done


def import_operators(graph: Graph, context: Context, ranges: dict[str, float] | None = None) -> int:
    """Applies the rules of the table to every op that has one; returns how many ops were rewritten.

    Args:
        graph: a whole model.
        context: rows tell the rewritten ops by type, notes those that were left.
        ranges: the largest magnitudes of values that are quantized dynamically.
    """
    work = [(part, op) for part in parts(graph) for op in part.ops() if _is_foreign(op)]
    opset = graph.header.opset() or 0
    if opset < _OLDEST and any(op.key != ("", "DequantizeLinear") for _, op in work):
        raise RefusedError(
            f"the model imports opset {opset}; QuantizeLinear needs opset {_OLDEST} or later",
            hint="convert the model with onnx.version_converter, or export it anew",
        )
    raised = _raise(graph, context, work)
    desk = Desk(context.facts.get(shapes) if not raised else infer(graph), ranges or {})
    done, left = _apply(work, desk, context)
    for part in parts(graph):
        # Each stands behind what was made for those before it.
        moved, kept = _apply([(part, op) for op in part.ops() if movers.is_mover(op)], desk, context)
        done, left = done + moved, left + kept
    for name, count in sorted(done.items()):
        context.row(op_type=name, rewritten=count)
    for name, reason, first in left:
        context.note(f"{name} stays as it is: {reason} (first: {first})")
    if desk.dropped:
        names = ", ".join(list(desk.dropped)[:3]) + (", …" if len(desk.dropped) > 3 else "")
        context.note(f"{len(desk.dropped)} activations were quantized as the model runs and are float now ({names})")
    if desk.rounded:
        names = ", ".join(desk.rounded)
        context.note(f"codes of 8 bits without their zero points are more than int8 holds and were rounded: {names}")
    return sum(done.values()) + raised


def _is_foreign(op: Op) -> bool:
    """Whether a rule knows an op that works on integers; movers, which take any type, are looked at later."""
    return import_rules.get(op) is not None and not movers.is_mover(op)


def _reads_codes(part: Graph, op: Op) -> bool:
    """Whether an op that takes numbers as well as codes is given codes that there is something to be done about."""
    value = op.input(0)
    if not (movers.is_mover(op) or op.key == ("", "DequantizeLinear")):
        return True
    maker = None if value is None or value not in part else part.producer(value)
    if op.op_type == "DequantizeLinear":
        return maker is not None and maker.op_type == "DynamicQuantizeLinear"
    codes = part.constant(value)
    return (maker is not None and maker.op_type == "QuantizeLinear") or (codes is not None and codes.dtype.bits <= 8)


def _too_old(part: Graph, op: Op) -> str | None:
    opset = part.root.header.opset() or 0
    if opset >= _LISTS or movers.is_mover(op):
        return None
    scales = [tensor for value in op.inputs if (tensor := part.constant(value)) is not None and tensor.dtype.is_float]
    several = any(scale.size > 1 for scale in scales)
    return f"a scale for each channel needs opset {_LISTS}, and the model imports {opset}" if several else None


def _raise(graph: Graph, context: Context, work: list[tuple[Graph, Op]]) -> int:
    """Takes an opset that has what is to be written; 1 where that is another than before."""
    wanted = max((_NEEDED.get(op.op_type, 0) for _, op in work), default=0)
    if (graph.header.opset() or 0) >= wanted:
        return 0
    try:
        raise_opset(graph, wanted)
    except RefusedError as error:
        context.note(f"weights of few bits become float: {error.message}")
        return 0
    context.note(f"the model imports opset {wanted} now, the first that has what it was quantized to")
    return 1


def _apply(
    work: list[tuple[Graph, Op]], desk: Desk, context: Context
) -> tuple[Counter[str], list[tuple[str, str, str]]]:
    done: Counter[str] = Counter()
    left: dict[tuple[str, str], str] = {}
    for part, op in work:
        rule = import_rules.get(op)
        if op not in part or rule is None or not _reads_codes(part, op) or not context.allow("import", op):
            continue
        reason = _too_old(part, op) or rule(Site(part, op, desk))
        if reason is None:
            done[op.op_type] += 1
        elif reason:
            left.setdefault((op.op_type, reason), op.title)
    for part, op in work:
        if op in part and op.op_type == "DynamicQuantizeLinear":
            sweep(part, op)
    return done, [(name, reason, first) for (name, reason), first in left.items() if name != "DynamicQuantizeLinear"]


def _ranges(graph: Graph, context: Context) -> dict[str, float]:
    """The largest magnitudes of what is quantized dynamically, over the calibration data; empty without data."""
    names = sorted({op.inputs[0].name for op in graph.ops() if op.key in _DYNAMIC and op.inputs[0] is not None})
    if not names or context.source is None or context.runner is None:
        return {}
    found = {name: Range() for name in names}
    watchers = {name: [one] for name, one in found.items()}
    capture(graph, context.source, context.runner, watchers, CaptureOptions(progress=context.progress))
    return {name: float(amax_max(one)) for name, one in found.items()}
