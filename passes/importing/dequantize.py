"""`dequantize`: back to floating point, whatever a model was quantized with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from secateur.ir import DataType, Graph, Op, Tensor, Value
from secateur.ir.build import emit
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.importing.constants import fold, numbers_of, put
from secateur.passes.importing.import_quantized import import_operators
from secateur.passes.importing.saturation import CODES, Ends, clipped, ends_of, hides_activation
from secateur.passes.parts import parts

_DOMAINS = frozenset({"", "com.microsoft"})
_DEQUANTIZERS = frozenset({"DequantizeLinear", "TRT_MXFP8DequantizeLinear"})
_DYNAMIC = frozenset({"TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize"})
"""Ops of TensorRT that make codes (the first output) and scales for blocks as the model runs."""


@dataclass(frozen=True)
class Dequantize(Pass):
    """Quantized weights become the floats that they stand for, and activations are quantized no more.

    Integer operators are imported first, as `import-quantized` does. Weights come out in the type of their scales, and
    keep their zeros, with the mark of a sparse weight. Where a quantizer cut off all that is negative, and stood for a
    ReLU or ReLU6, a Clip takes its place. What was rounded stays so: this gives no precision back, but a model that
    every other pass can work on.
    """

    name: ClassVar[str] = "dequantize"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops went; notes name the codes that come from, or leave by, the model's interface."""
        changed = import_operators(graph, context)
        weights = activations = 0
        for part in parts(graph):
            for op in part.ops():
                if op not in part or op.op_type not in _DEQUANTIZERS:
                    continue
                numbers = numbers_of(part, op)
                if numbers is not None and context.allow("weight", op):
                    fold(part, op, numbers)
                    weights += 1
                elif (source := _source(part, op)) is not None and context.allow("activation", op):
                    _bypass(part, op, source)
                    activations += 1
        for part in parts(graph):
            for op in part.ops():
                if op.op_type in _DEQUANTIZERS:
                    context.note(f"{op.title} stays: its codes are not made here")
        if weights or activations:
            context.row(weights=weights, activations=activations)
            context.manifest.exact = False
        return changed + weights + activations


def _source(part: Graph, op: Op) -> Value | None:
    """What is quantized to the codes that an op dequantizes, with the same scale and zero point."""
    codes = op.input(0)
    maker = None if codes is None or codes not in part else part.producer(codes)
    if maker is not None and maker.op_type in _DYNAMIC and maker.outputs[0] is codes:
        return maker.input(0)
    if maker is None or maker.op_type != "QuantizeLinear" or maker.domain not in _DOMAINS:
        return None
    pairs = [(part.constant(maker.input(port)), part.constant(op.input(port))) for port in (1, 2)]
    same = all(
        maker.input(port) is op.input(port) or (one is not None and other is not None and one.equals(other))
        for port, (one, other) in zip((1, 2), pairs, strict=True)
    )
    return maker.input(0) if same else None


def _bypass(part: Graph, op: Op, source: Value) -> None:
    """Readers of the dequantized value read what was quantized, in the type that they had."""
    maker = _quantizer(part, op)
    if maker.op_type in _DYNAMIC:
        put(part, op, source)
        return
    given, wanted = part.constant(maker.input(1)), part.constant(op.input(1))
    if given is not None and (ends := _ends(part, maker, given)) and hides_activation(part, source, ends, {}):
        source = _shared(part, maker, source, ends, given)
    if given is not None and wanted is not None and given.dtype is not wanted.dtype:
        source = emit(part, "Cast", [source], {"to": int(wanted.dtype)}, like=op).output
    put(part, op, source)


def _ends(part: Graph, maker: Op, scale: Tensor) -> Ends | None:
    zero = part.constant(maker.input(2))
    kind = DataType(maker.attribute("output_dtype", 0)) or DataType.UINT8 if zero is None else zero.dtype
    if scale.size != 1 or kind not in CODES:
        return None
    point = 0 if zero is None else int(zero.numpy().reshape(-1)[0])
    return ends_of(float(scale.numpy().astype(np.float64).item()), point, kind)


def _shared(part: Graph, maker: Op, source: Value, ends: Ends, scale: Tensor) -> Value:
    """What was quantized, cut off where the quantizer did so; from then on the quantizer itself reads that."""
    cut = clipped(part, maker, source, ends, scale.dtype.numpy)
    part.set_inputs(maker, [cut, *maker.inputs[1:]])
    return cut


def _quantizer(part: Graph, op: Op) -> Op:
    codes = op.inputs[0]
    assert codes is not None
    maker = part.producer(codes)
    assert maker is not None
    return maker
