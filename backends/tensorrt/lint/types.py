"""Element types: those that TensorRT has, those that it takes for others, and where it wants two to be the same."""

from __future__ import annotations

from secateur.backends.tensorrt.lint.finding import Source
from secateur.backends.tensorrt.lint.rule import Rule, says
from secateur.backends.tensorrt.lint.site import Site
from secateur.ir.types import DataType

TAKEN = frozenset(
    {
        DataType.FLOAT32,
        DataType.FLOAT64,
        DataType.FLOAT16,
        DataType.BFLOAT16,
        DataType.INT8,
        DataType.UINT8,
        DataType.INT32,
        DataType.INT64,
        DataType.BOOL,
        DataType.FLOAT8E4M3FN,
        DataType.INT4,
        DataType.FLOAT4E2M1,
    }
)
"""Types that the parser knows, as inputs and as initializers. float64 becomes float32, uint8 initializers int32."""

WIDE = frozenset({DataType.FLOAT32, DataType.FLOAT64, DataType.FLOAT16, DataType.BFLOAT16})
QUANTIZED = frozenset({DataType.FLOAT8E4M3FN, DataType.INT4, DataType.FLOAT4E2M1})
"""Types that only come out of a QuantizeLinear and only go into a DequantizeLinear."""

_NUMBERS = WIDE | {DataType.INT32, DataType.INT64}

_SAME_TYPED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul", "Sub"), (0, 1)),
    **dict.fromkeys(("MatMul", "Max", "Min", "Mod", "PRelu"), (0, 1)),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "GRU", "LSTM", "RNN"), (0, 1, 2)),
    "InstanceNormalization": (0, 1, 2),
    "Where": (1, 2),
}
"""Input ports that must agree in type."""


def _cast_to(site: Site) -> str | None:
    made = DataType(site.op.attribute("to", 0)) if site.op.op_type == "Cast" else site.dtype(1)
    if made is None:
        return None
    if made in QUANTIZED:
        return f"a Cast cannot make {made.short}, only a QuantizeLinear can"
    if made not in TAKEN and site.op.op_type == "Cast":
        return f"TensorRT has no type {made.short}"
    if made is DataType.UINT8 and not _is_output(site):
        return "TensorRT has uint8 at the inputs and outputs of a network only"
    return None


def _cast_from(site: Site) -> str | None:
    found = site.dtype(0)
    if found in QUANTIZED and not site.is_constant(0):
        return f"a Cast cannot read {found.short}, only a DequantizeLinear can"
    return None


def _is_output(site: Site) -> bool:
    return not site.graph.is_body and site.op.output in site.graph.outputs


def _mixed(site: Site) -> str | None:
    ports = _SAME_TYPED[site.op.op_type]
    found = {port: _as_parsed(site, port) for port in ports}
    known = {kind for kind in found.values() if kind is not None}
    if len(known) < 2:
        return None
    words = " and ".join(sorted(kind.short for kind in known))
    return f"its inputs are of types {words}; TensorRT casts nothing by itself"


def _as_parsed(site: Site, port: int) -> DataType | None:
    """The type that TensorRT gives to an input."""
    found = site.dtype(port)
    if found is DataType.FLOAT64:
        return DataType.FLOAT32
    return DataType.INT32 if found is DataType.UINT8 and site.is_constant(port) else found


def _quantized_constant(site: Site) -> str | None:
    """Constants of 8 and fewer bits feed DequantizeLinear and nothing else."""
    if "QuantizeLinear" in site.op.op_type or "Dequantize" in site.op.op_type or site.op.op_type in _BY_TYPE_ONLY:
        return None
    for port in range(len(site.op.inputs)):
        kind = site.dtype(port)
        if site.is_constant(port) and (kind in QUANTIZED or kind is DataType.INT8):
            assert kind is not None
            return f"it reads an {kind.short} constant, which TensorRT gives to DequantizeLinear only"
    return None


_BY_TYPE_ONLY = frozenset({"CastLike", "Clip", "DynamicQuantize"})
"""Ops with rules of their own for such constants."""


def _unsigned(site: Site) -> str | None:
    for port in range(len(site.op.inputs)):
        if site.dtype(port) is DataType.UINT8 and not site.is_constant(port):
            return "it computes with uint8, for which TensorRT has no arithmetic"
    return None


def _clip(site: Site) -> str | None:
    kind = site.dtype(0)
    # With a constant lower bound alone it becomes a maximum, which takes integers.
    if kind is None or kind in _NUMBERS or (site.is_constant(1) and not site.has(2)):
        return None
    return f"Clip of {kind.short}; TensorRT clips floating point, int32 and int64"


_ARITHMETIC = ("Add", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Sub")
_CAST = "insert a Cast, to a type that TensorRT computes in, before it"
_REDUCTIONS = tuple(f"Reduce{name}" for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split())


def _is(site: Site, *kinds: DataType) -> bool:
    return site.dtype(0) in kinds


def _mod(site: Site) -> str | None:
    kind = site.dtype(0)
    if kind is DataType.UINT8:
        return "Mod of uint8"
    if site.op.attribute("fmod", 0) == 0 and (kind in WIDE or kind is DataType.INT8):
        assert kind is not None
        return f"Mod of {kind.short} with fmod=0"
    return None


def _peepholes(site: Site) -> str | None:
    kind = site.dtype(0)
    if not site.has(7) or kind not in (DataType.FLOAT16, DataType.BFLOAT16):
        return None
    return f"an LSTM of {kind.short} with peepholes: TensorRT makes a part of it in float32, which does not fit"


def _random(site: Site) -> str | None:
    kind = DataType(site.op.attribute("dtype", 0)) or site.dtype(0)
    return f"random numbers of {kind.short}" if kind is DataType.FLOAT64 else None


def _range(site: Site) -> str | None:
    kind = site.dtype(0)
    if kind in (DataType.FLOAT16, DataType.BFLOAT16, DataType.FLOAT64, DataType.INT16):
        return f"Range of {kind.short}; TensorRT makes ranges of int32, int64 and float32"
    return None


RULES: tuple[Rule, ...] = (
    Rule(("Cast", "CastLike"), _cast_to, "quantize with QuantizeLinear, or cast to a type that TensorRT computes in"),
    Rule(("Cast", "CastLike"), _cast_from, "dequantize with DequantizeLinear", Source.BUILDER),
    Rule(tuple(_SAME_TYPED), _mixed, "insert a Cast so that both are of one type (the pass legalize does)"),
    Rule((), _quantized_constant, "put the DequantizeLinear right behind the constant", Source.BUILDER),
    Rule(_ARITHMETIC, _unsigned, _CAST),
    Rule(("Clip",), _clip, "cast to int32 before it, and back after it"),
    Rule(
        ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
        says(lambda site: _is(site, DataType.UINT8), "TensorRT does not pool uint8"),
        _CAST,
    ),
    Rule(_REDUCTIONS, says(lambda site: _is(site, DataType.BOOL), "TensorRT does not reduce bool"), _CAST),
    Rule(("Mod",), _mod, "set fmod=1 if the sign of the dividend is what is meant, or compute in int32"),
    Rule(("LSTM",), _peepholes, "cast it to float32"),
    Rule(("RandomNormalLike", "RandomUniformLike"), _random, "draw float32, and cast"),
    Rule(("Range",), _range, "make the range in int64 and cast it"),
    Rule(
        ("Celu",),
        says(
            lambda site: site.dtype(0) in (DataType.FLOAT16, DataType.BFLOAT16),
            "TensorRT's Celu multiplies by a float32 constant, which does not fit its input's type",
        ),
        "write it as Elu and Mul",
    ),
)
