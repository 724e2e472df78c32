"""Attributes that count: hidden sizes, columns, experts."""

from __future__ import annotations

from secateur.ir.dims.resize.table import Resizing, resize_rules
from secateur.ir.errors import RefusedError
from secateur.ir.node import Op

_register = resize_rules.register


@_register("LSTM", "GRU", "RNN")
def recurrent(resizing: Resizing, op: Op) -> None:
    """`hidden_size`."""
    if op.attribute("hidden_size") is not None:
        resizing.set_attribute(op, "hidden_size", resizing.size(resizing.input(op, 2)[2]))


@_register("com.microsoft::MatMulNBits")
def matmul_packed(resizing: Resizing, op: Op) -> None:
    """`N` columns, `K` rows."""
    resizing.set_attribute(op, "N", resizing.size(resizing.input(op, 1)[0]))
    rows = resizing.size(resizing.input(op, 0)[-1])
    if rows is not None:
        resizing.set_attribute(op, "K", rows)


@_register("com.microsoft::MoE", "com.microsoft::QMoE")
def mixture(resizing: Resizing, op: Op) -> None:
    """No more experts can be taken than there are."""
    layout, taken = resizing.input(op, 2)[0], op.attribute("k", 1)
    experts = resizing.size(layout)
    if experts is not None and experts < taken:
        name = resizing.name(layout)
        raise RefusedError(
            f"{name}: {op} takes {taken} experts of what would be {experts}", hint="keep at least that many"
        )
