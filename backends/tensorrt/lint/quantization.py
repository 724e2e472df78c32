"""QuantizeLinear and DequantizeLinear: what TensorRT takes, and where it computes in float although all is quantized.

The builder says nothing of the second; what is here was read off the kernels of engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from secateur.backends.tensorrt.lint.finding import Severity, Source
from secateur.backends.tensorrt.lint.rule import Rule
from secateur.backends.tensorrt.lint.site import Site, dtype_of, is_zero
from secateur.ir.node import Op
from secateur.ir.rules.packed_heads import is_packed
from secateur.ir.types import DataType

_QUANTIZE = ("QuantizeLinear", "com.microsoft::QuantizeLinear")
_DEQUANTIZE = ("DequantizeLinear", "com.microsoft::DequantizeLinear")
_BOTH = _QUANTIZE + _DEQUANTIZE
_CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TRANSPARENT = frozenset(
    {"AveragePool", "Cast", "Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Ops that the builder moves a DequantizeLinear through."""
_MADE = frozenset({DataType.INT8, DataType.FLOAT8E4M3FN, DataType.INT4, DataType.FLOAT4E2M1})
_MOST_TAPS = 32
"""Of a convolution in float8."""
_SYMMETRIC = "quantize symmetrically, to int8 with zero point 0 (the pass import-quantized does)"
_INT8 = "give it an int8 zero point of 0"


def _zero_point(site: Site) -> str | None:
    numbers = site.numbers(2)
    if numbers is not None:
        return None if is_zero(numbers) else "its zero point is not 0"
    is_float = (site.dtype(2) or DataType.INT8).is_float
    return None if not site.has(2) or site.is_folded(2) or is_float else "its zero point is computed"


def _reads(site: Site) -> str | None:
    kind = site.dtype(0)
    if kind is DataType.INT32:
        return "it dequantizes int32 (a quantized bias)"
    if kind is DataType.UINT8 and (site.is_constant(0) or _is_input(site)):
        return "it dequantizes uint8"
    if kind in (DataType.INT4, DataType.FLOAT4E2M1) and site.shape(0) is not None:
        sizes = [size for size in site.shape(0) or () if isinstance(size, int)]
        if sizes and all(size % 2 for size in sizes) and len(sizes) == site.rank(0):
            return "it has an odd number of elements of 4 bits"
    return None


def _is_input(site: Site) -> bool:
    value = site.op.input(0)
    return value is not None and value in site.graph.root.inputs


def _made(site: Site) -> str | None:
    kind = DataType(site.op.attribute("output_dtype", 0))
    if kind is DataType.UNDEFINED or site.has(2):
        return None
    return None if kind in _MADE or kind is DataType.UINT8 else f"TensorRT does not quantize to {kind.short}"


def _unsigned(site: Site) -> str | None:
    zero = site.dtype(2)
    named = DataType(site.op.attribute("output_dtype", 0))
    if DataType.UINT8 not in (zero, named) or _zero_point(site) is not None:
        return None
    return "TensorRT takes its uint8 for int8: what is above 127 is clipped"


def _unsigned_by_default(site: Site) -> str | None:
    if site.has(2) or site.op.attribute("output_dtype", 0):
        return None
    return "without a zero point ONNX quantizes to uint8, TensorRT to int8"


def dequantizer(site: Site, port: int) -> Op | None:
    """The DequantizeLinear that an operand comes from, through ops that it commutes with."""
    value = site.op.input(port)
    for _ in range(64):
        owner = None if value is None else site.graph.owner(value)
        made = None if owner is None or value is None else owner.producer(value)
        if made is None or made.op_type == "DequantizeLinear":
            return made
        if made.op_type not in _TRANSPARENT:
            return None
        value = made.input(0)
    return None


def _scale_axis(site: Site, made: Op) -> int | None:
    """The axis of a scale that differs by channel; None for a scalar, a block scale, or one that is not known."""
    scale = site.known.constant(made.input(1))
    if scale is None or scale.size == 1 or made.attribute("block_size", 0):
        return None
    rank = site.known.rank(made.input(0))
    axis = made.attribute("axis", 1)
    return int(axis) if axis >= 0 or rank is None else int(axis) + rank


def _expected_axis(site: Site) -> int | None:
    """The axis of a contraction's second operand that indexes output channels."""
    match site.op.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if site.op.attribute("transB", 0) else 1
    rank = site.rank(1)
    return None if rank is None else rank - 1


def _operands(site: Site) -> Iterator[tuple[int, Op]]:
    for port in (0, 1):
        made = dequantizer(site, port)
        if made is not None:
            yield port, made


def _is_weight(site: Site, made: Op) -> bool:
    """Whether what a DequantizeLinear reads is a constant, quantized before or here."""
    value = made.input(0)
    if site.known.constant(value) is not None:
        return True
    owner = None if value is None else site.graph.owner(value)
    quantizer = None if owner is None or value is None else owner.producer(value)
    return quantizer is not None and site.known.constant(quantizer.input(0)) is not None


def _block(made: Op) -> bool:
    return bool(made.attribute("block_size", 0))


def _coded(site: Site, made: Op) -> DataType | None:
    return dtype_of(site.known, made.input(0))


def _channel_activation(site: Site) -> str | None:
    operands = dict(_operands(site))
    if len(operands) < 2:
        return None
    for made in operands.values():
        if not _is_weight(site, made) and _scale_axis(site, made) is not None:
            return (
                "its activation is quantized with a scale for each channel, so it is dequantized and computed in float"
            )
    return None


def _wrong_axis(site: Site) -> str | None:
    operands = dict(_operands(site))
    expected = _expected_axis(site)
    if len(operands) < 2 or expected is None or not _is_weight(site, operands[1]):
        return None
    between = site.producer(1)
    axis = _scale_axis(site, operands[1])
    if axis is None or axis == expected or between is not operands[1]:
        return None
    return f"the scales of its weight lie along axis {axis}, not {expected}, so it is dequantized and computed in float"


def _packed(site: Site) -> str | None:
    """A fused attention takes the place of the product, and has no kernel with a scale for each channel."""
    operands = dict(_operands(site))
    if len(operands) < 2 or not _is_weight(site, operands[1]) or _scale_axis(site, operands[1]) is None:
        return None
    if not is_packed(site.known, site.op):
        return None
    return "it makes queries, keys and values with a scale for each channel, so it is dequantized and computed in float"


def _transposed(site: Site) -> str | None:
    made = dict(_operands(site))
    return "a quantized ConvTranspose is computed in float" if len(made) == 2 else None


def _large_kernel(site: Site) -> str | None:
    """TensorRT-RTX 1.7 has FP8 kernels for convolutions up to 4 x 8 or 1 x 31, and none for 1 x 33 or 6 x 6."""
    made = dict(_operands(site))
    shape = site.shape(1)
    if len(made) < 2 or shape is None or _coded(site, made[1]) is not DataType.FLOAT8E4M3FN:
        return None
    taps = [size for size in shape[2:] if isinstance(size, int)]
    if math.prod(taps) <= _MOST_TAPS:
        return None
    return f"a float8 convolution of more than {_MOST_TAPS} taps ({'x'.join(map(str, taps))}) is computed in float"


def _one_sided(site: Site) -> str | None:
    operands = dict(_operands(site))
    if len(operands) != 1:
        return None
    ((port, made),) = operands.items()
    if not _is_weight(site, made):
        other = "weight" if site.is_constant(1 - port) else "other operand"
        return f"its activation is quantized, its {other} is not, so it is computed in float"
    if site.op.op_type in ("Conv", "ConvTranspose") and _coded(site, made) is DataType.INT8:
        return "only its weight is quantized, so it is computed in float"
    return _weight_only(site, made)


def _weight_only(site: Site, made: Op) -> str | None:
    """INT4 blocks have kernels that dequantize while they multiply."""
    kind = _coded(site, made)
    if kind is DataType.FLOAT4E2M1:
        return "only its weight is in float4, so it is dequantized before the product"
    if kind is DataType.INT8 and _block(made):
        return "its weight is int8 with a scale for each block, so it is dequantized before the product"
    scale = site.known.shape(made.input(1))
    if kind is not DataType.INT4 or scale is None:
        return None
    one = not _block(made) or 1 in scale[max(0, made.attribute("axis", 1)) :][:1]
    return "its int4 weight has one block to a channel, so a kernel of its own dequantizes it" if one else None


RULES: tuple[Rule, ...] = (
    Rule(_BOTH, _zero_point, _SYMMETRIC),
    Rule(_DEQUANTIZE, _reads, "keep a bias in float; quantize weights and inputs to int8 (import-quantized does)"),
    Rule(_QUANTIZE, _made, "quantize to int8 or float8 (E4M3)"),
    Rule(_BOTH, _unsigned, _SYMMETRIC, Source.LOG, Severity.CHANGED),
    Rule(_QUANTIZE, _unsigned_by_default, _INT8, Source.ENGINE, Severity.CHANGED),
    Rule(_CONTRACTIONS, _channel_activation, "quantize activations with one scale", Source.ENGINE, Severity.CHANGED),
    Rule(
        ("Conv", "Gemm", "MatMul"),
        _wrong_axis,
        "give the weight one scale for each output channel",
        Source.ENGINE,
        Severity.CHANGED,
    ),
    Rule(
        ("Gemm", "MatMul"),
        _packed,
        "give the weight one scale (the pass quantize does), or make queries, keys and values by products of their own",
        Source.ENGINE,
        Severity.CHANGED,
    ),
    Rule(("ConvTranspose",), _transposed, "leave it in float", Source.ENGINE, Severity.CHANGED),
    Rule(("Conv",), _large_kernel, "quantize it to int8, or leave it in float", Source.ENGINE, Severity.CHANGED),
    Rule(_CONTRACTIONS, _one_sided, "quantize both operands, or neither", Source.ENGINE, Severity.SLOWER),
)
