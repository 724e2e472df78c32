"""Raising the opset of a model where its operators allow it: newer ones take element types that older ones do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from secateur.ir import Graph, Op
from secateur.ir.errors import RefusedError
from secateur.passes.opset.change import Change, Place
from secateur.passes.opset.table import CHANGES

_OLDEST, _WRITTEN, _NEWEST = 7, 13, 23
_IR_VERSION: Mapping[int, int] = {19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
_HINT = "convert the model with onnx.version_converter, or export it anew"


def raise_opset(graph: Graph, opset: int) -> int:
    """The model imports at least `opset` of ONNX's own operators and computes the same; returns how many ops changed.

    `CHANGES` says which operators came to mean something else from opset 7 to 23, or to be written otherwise; all
    others have only learned more. Functions keep the opset of their own.

    Args:
        graph: a whole model.
        opset: from 13 to 23.

    Raises:
        RefusedError: the model is of an opset before 7, or has an op that cannot be carried over; nothing is changed.
    """
    now = graph.header.opset() or 0
    if now >= opset:
        return 0
    if now < _OLDEST or not _WRITTEN <= opset <= _NEWEST:
        raise RefusedError(f"the model imports opset {now}, and opset {opset} is needed", hint=_HINT)
    place = Place(graph, now)
    crossed = [(place.inside(part), op) for part in graph.graphs() for op in part.ops() if _changes(op, now, opset)]
    for where, op in crossed:
        if (reason := _refusal(where, op, _changes(op, now, opset))) is not None:
            raise RefusedError(f"{op.title} cannot be carried over from opset {now} to {opset}: {reason}", hint=_HINT)
    for where, op in crossed:
        for change in _changes(op, now, opset):
            change.rewrite(where, op)
    opsets = tuple((name, opset if name in ("", "ai.onnx") else version) for name, version in graph.header.opsets)
    ir_version = max(graph.header.ir_version, _IR_VERSION.get(opset, 8))
    graph.header = replace(graph.header, opsets=opsets, ir_version=ir_version)
    return len(crossed)


def _changes(op: Op, now: int, opset: int) -> list[Change]:
    """What happened to an operator in between, in order."""
    known = CHANGES.get(op.op_type, ()) if op.key[0] == "" else ()
    return [change for change in known if now < change.since <= opset]


def _refusal(where: Place, op: Op, changes: list[Change]) -> str | None:
    if any(attribute.reference for attribute in op.attributes.values()):
        return "it takes attributes of a function"
    reasons = (change.refusal(where, op) for change in changes)
    return next((reason for reason in reasons if reason is not None), None)
