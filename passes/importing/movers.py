"""Operators that only move or choose numbers do so with codes as well: here they get the numbers, and Q/DQ around.

TensorRT pools no integers, and takes scales from Q/DQ pairs with nothing between. That these operators commute with
quantization (they move numbers, or are monotonous) is what makes it exact.
"""

from __future__ import annotations

from secateur.ir import Op, Value
from secateur.ir.build import emit
from secateur.passes.importing.site import Codes, Site, import_rules
from secateur.passes.rewriter import replace_value, sweep

_MOVES = (
    *("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool", "Reshape"),
    *("Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)


def is_mover(op: Op) -> bool:
    """Whether an op has a rule here."""
    return op.key[0] == "" and (op.op_type in _MOVES or op.op_type in ("Concat", "Resize"))


@import_rules.register(*_MOVES)
def _move(site: Site) -> str | None:
    return _around(site, (0,)) if site.constant(site.input(0)) is None else _behind(site)


@import_rules.register("Concat")
def _concat(site: Site) -> str | None:
    return _around(site, tuple(range(len(site.op.inputs))))


@import_rules.register("Resize")
def _resize(site: Site) -> str | None:
    """Choosing the nearest is exact; interpolation rounds codes, where float would not: within one step."""
    return _around(site, (0,))


def _around(site: Site, ports: tuple[int, ...]) -> str | None:
    makers = [site.maker(site.input(port)) for port in ports]
    quantizers = [maker for maker in makers if maker is not None and maker.key == ("", "QuantizeLinear")]
    if not quantizers:
        return ""
    grids = {(_numbers(site, maker.input(1)), _numbers(site, maker.input(2))) for maker in quantizers}
    if len(quantizers) < len(ports) or len(grids) > 1 or any(None in grid[:1] for grid in grids):
        return "it joins codes of several scales"
    _, scale, zero = (*quantizers[0].inputs, None)[:3]
    assert scale is not None
    inputs = list(site.op.inputs)
    for port in ports:
        codes = inputs[port]
        assert codes is not None
        inputs[port] = site.real(Codes(codes, scale, zero))
    _renewed(site, inputs, scale, zero, all_outputs=site.op.op_type == "Split")
    return None


def _renewed(site: Site, inputs: list[Value | None], scale: Value, zero: Value | None, *, all_outputs: bool) -> None:
    """The op on numbers instead of codes; its outputs (or only the first: others are indices) are quantized again."""
    op, part = site.op, site.part
    hints = [None if value is None else "" for value in op.outputs]
    made = emit(part, op.op_type, inputs, op.attributes, outputs=hints, like=op)
    site.named(made)
    for port, (old, new) in enumerate(zip(op.outputs, made.outputs, strict=True)):
        if old is not None and new is not None:
            is_codes = all_outputs or port == 0
            replace_value(part, old, site.quantized(new, scale, zero) if is_codes else new, rename=True)
    sweep(part, op)


def _behind(site: Site) -> str | None:
    """Rows of a table of constant codes (an embedding), dequantized after they were looked up: before, that is."""
    codes, readers = site.op.inputs[0], site.part.consumers(site.op.output)
    if codes is None or site.op.output in site.part.outputs or not readers or len(site.op.outputs) > 1:
        return ""
    first = readers[0]
    grids = {(_numbers(site, one.input(1)), _numbers(site, one.input(2))) for one in readers}
    if any(one.key != ("", "DequantizeLinear") for one in readers):
        return ""
    scale = site.constant(first.input(1))
    if len(grids) > 1 or scale is None or scale.size > 1 or first.inputs[1] is None:
        return "its codes have several scales"
    real = site.real(Codes(codes, first.inputs[1], first.input(2)))
    made = site.emit(site.op.op_type, [real, *site.op.inputs[1:]], site.op.attributes)
    for at, reader in enumerate(readers):
        site.replace(made, reader, rename=at == 0)
    return None


def _numbers(site: Site, value: Value | None) -> bytes | None:
    tensor = site.constant(value)
    return None if tensor is None else tensor.numpy().tobytes()
