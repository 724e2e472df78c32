"""Raising the opset of a model where its operators allow it: newer ones take element types that older ones do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from secateur.ir import Graph, Op
from secateur.ir.build import add_constant
from secateur.ir.errors import RefusedError

_OLDEST, _NEWEST = 13, 23
_IR_VERSION: Mapping[int, int] = {19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
_REDUCTIONS = tuple(f"Reduce{name}" for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())


def raise_opset(graph: Graph, opset: int) -> int:
    """The model imports at least `opset` of ONNX's own operators and computes the same; returns how many ops changed.

    From opset 13 to 23, four operators came to mean something else, or to be written otherwise; all others have only
    learned more. Functions keep the opset of their own.

    Args:
        graph: a whole model.
        opset: from 13 to 23.

    Raises:
        RefusedError: the model is of an opset before 13, or has an op that cannot be carried over; nothing is changed.
    """
    now = graph.header.opset() or 0
    if now >= opset:
        return 0
    if now < _OLDEST or opset > _NEWEST:
        raise RefusedError(
            f"the model imports opset {now}, and opset {opset} is needed",
            hint="convert the model with onnx.version_converter, or export it anew",
        )
    crossed = [(part, op) for part in graph.graphs() for op in part.ops() if _since(op) and now < _since(op) <= opset]
    for part, op in crossed:
        if (reason := _check(part, op)) is not None:
            raise RefusedError(
                f"{op.title} cannot be carried over from opset {now} to {opset}: {reason}",
                hint="convert the model with onnx.version_converter, or export it anew",
            )
    for part, op in crossed:
        _CHANGES[op.op_type][1](part, op)
    opsets = tuple((name, opset if name in ("", "ai.onnx") else version) for name, version in graph.header.opsets)
    ir_version = max(graph.header.ir_version, _IR_VERSION.get(opset, 8))
    graph.header = replace(graph.header, opsets=opsets, ir_version=ir_version)
    return len(crossed)


def _since(op: Op) -> int:
    found = _CHANGES.get(op.op_type) if op.key[0] == "" else None
    return 0 if found is None else found[0]


def _check(part: Graph, op: Op) -> str | None:
    reference = any(attribute.reference for attribute in op.attributes.values())
    if reference:
        return "it takes attributes of a function"
    refusal = _REFUSALS.get(op.op_type)
    return None if refusal is None else refusal(op)


def _move_axes(part: Graph, op: Op) -> None:
    axes = op.attribute("axes")
    if axes is not None:
        part.set_attribute(op, "axes", None)
        part.set_inputs(op, [op.input(0), add_constant(part, f"{op.output.name}_axes", [int(axis) for axis in axes])])


def _count_outputs(part: Graph, op: Op) -> None:
    if op.input(1) is None:
        part.set_attribute(op, "num_outputs", len(op.outputs))


def _rename_mode(part: Graph, op: Op) -> None:
    found = op.attribute("mode", "bilinear")
    part.set_attribute(op, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(found, found))


def _nothing(part: Graph, op: Op) -> None:
    """Ops that are refused wherever they cannot stay as they are."""


_CHANGES: Mapping[str, tuple[int, Callable[[Graph, Op], None]]] = {
    **dict.fromkeys(_REDUCTIONS, (18, _move_axes)),
    "Split": (18, _count_outputs),
    "GridSample": (20, _rename_mode),
    "GroupNormalization": (21, _nothing),
    "DFT": (20, _nothing),
    "BatchNormalization": (14, _nothing),
}
"""The opset in which an operator changed, and what to do."""

_REFUSALS: Mapping[str, Callable[[Op], str | None]] = {
    "GroupNormalization": lambda op: "its scale is one number for each group before opset 21, for each channel after",
    "DFT": lambda op: "its axis moved from an attribute to an input",
    "BatchNormalization": lambda op: "its further outputs changed" if len(op.outputs) > 1 else None,
}
