"""Which operators may compute in 16 bits, as data: a side for each, and the reason.

float16 has 11 bits and ends at 65504, bfloat16 has 8 and the range of float32. Sums inside products and convolutions
are accumulated in float32 by all runtimes that matter, so what counts is what an operator reads and writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from secateur.ir import DataType, Op, TensorType, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable


class Side(Enum):
    """Where an operator belongs."""

    LOWER = "in 16 bits"
    """It gains from them: this is what the conversion is for."""
    FREE = "where its neighbours are"
    """It works in either, so that it saves a Cast."""
    KEPT = "in float32"
    """It would lose too much."""


@dataclass(frozen=True)
class Verdict:
    """A side, and why."""

    side: Side
    reason: str


PrecisionRule: TypeAlias = Callable[[Known, Op], Verdict]

precision_rules: RuleTable[PrecisionRule] = RuleTable("may it compute in 16 bits?")
"""Operators without a rule stay in float32."""

SHORT = 64
"""A sum of so few numbers loses no more in 16 bits than they have lost already."""

_PRODUCT = "most of the time goes here, and sums are accumulated in float32"
_PLAIN: tuple[tuple[Side, str, str], ...] = (
    (
        Side.LOWER,
        "most of the time goes here, and sums are accumulated in float32",
        "Attention Conv ConvTranspose Einsum Gemm",
    ),
    (
        Side.FREE,
        "it moves or chooses numbers and computes none",
        "Compress Concat DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad "
        "Reshape "
        "ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze Where GlobalMaxPool Max Min "
        "ReduceMax ReduceMin",
    ),
    (
        Side.FREE,
        "it rounds each number once",
        "Abs Add AveragePool Ceil Clip Div Floor GlobalAveragePool GridSample Neg Resize Round Sign Sub Sum Upsample",
    ),
    (
        Side.FREE,
        "what it gives is bounded, or no larger than what it reads",
        "Celu Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Shrink Sigmoid Softsign Swish Tanh "
        "ThresholdedRelu",
    ),
    (
        Side.FREE,
        "it compares, and gives no numbers",
        "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or",
    ),
    (Side.FREE, "it looks at shapes only", "Shape Size"),
    (Side.FREE, "its scale is of the type of what is around it", "DequantizeLinear QuantizeLinear"),
    (
        Side.KEPT,
        "a normalisation divides by the root of a sum of squares",
        "GroupNormalization InstanceNormalization LayerNormalization LpNormalization LRN MeanVarianceNormalization "
        "RMSNormalization SimplifiedLayerNormalization",
    ),
    (Side.KEPT, "it sums up exponentials", "LogSoftmax Softmax ReduceLogSum ReduceLogSumExp"),
    (
        Side.KEPT,
        "exponentials, logarithms and powers leave the range of 16 bits",
        "Exp Log Pow Reciprocal Softplus Sqrt",
    ),
    (Side.KEPT, "the sum runs on and on", "CumSum DFT GRU LSTM RNN STFT"),
    (Side.KEPT, "squares and products leave the range of 16 bits", "Det ReduceL1 ReduceL2 ReduceProd ReduceSumSquare"),
    (Side.KEPT, "positions and angles need every bit", "Cos EyeLike Mod OneHot Range RotaryEmbedding Sin Tan"),
    (Side.KEPT, "it orders numbers, and rounding makes them equal", "ArgMax ArgMin NonMaxSuppression TopK Unique"),
    (Side.KEPT, "coordinates need every bit", "AffineGrid MaxRoiPool RoiAlign"),
    (Side.KEPT, "a loss is a small difference of large numbers", "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"),
)


def _always(verdict: Verdict) -> PrecisionRule:
    return lambda known, op: verdict


for _side, _reason, _names in _PLAIN:
    for _name in _names.split():
        precision_rules.add(_name, _always(Verdict(_side, _reason)))


@precision_rules.register("MatMul")
def _matmul(known: Known, op: Op) -> Verdict:
    if any(is_position(known, value) for value in op.inputs):
        return Verdict(Side.KEPT, "positions and angles need every bit")
    return Verdict(Side.LOWER, _PRODUCT)


@precision_rules.register("Mul")
def _mul(known: Known, op: Op) -> Verdict:
    if op.input(0) is op.input(1):
        return Verdict(Side.KEPT, "squares and products leave the range of 16 bits")
    return Verdict(Side.FREE, "it rounds each number once")


@precision_rules.register("BatchNormalization")
def _batch_normalization(known: Known, op: Op) -> Verdict:
    if op.attribute("training_mode", 0) or sum(value is not None for value in op.outputs) > 1:
        return Verdict(Side.KEPT, "a normalisation divides by the root of a sum of squares")
    return Verdict(Side.FREE, "at inference it is one multiplication and one addition")


@precision_rules.register("ReduceMean", "ReduceSum")
def _reduction(known: Known, op: Op) -> Verdict:
    """By how many numbers each result is made of."""
    before, after = (_count(known, value) for value in (op.input(0), op.outputs[0]))
    if before is not None and after and before // after <= SHORT:
        return Verdict(Side.FREE, f"its sums are of {SHORT} numbers at most")
    return Verdict(Side.KEPT, "its sums are long, or nobody knows how long")


@precision_rules.register("ScatterElements", "ScatterND")
def _scatter(known: Known, op: Op) -> Verdict:
    if op.attribute("reduction", "none") not in ("none", b"none"):
        return Verdict(Side.KEPT, "its sums are long, or nobody knows how long")
    return Verdict(Side.FREE, "it moves or chooses numbers and computes none")


@precision_rules.register("Cast", "CastLike")
def _cast(known: Known, op: Op) -> Verdict:
    source, made = (_dtype(known, value) for value in (op.input(0), op.outputs[0]))
    if made is DataType.FLOAT32 and source is not None and not source.is_float and source is not DataType.BOOL:
        return Verdict(Side.KEPT, "positions and angles need every bit")
    if made is not None and not made.is_float and made is not DataType.BOOL:
        return Verdict(Side.KEPT, "what is cut off decides on an integer")
    if op.op_type == "CastLike":
        return Verdict(Side.KEPT, "its type is that of another value")
    return Verdict(Side.FREE, "it rounds each number once")


_MOVES = frozenset({"Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def is_position(known: Known, value: Value | None) -> bool:
    """Whether numbers come from integers (positions, times, counts), moved or not, or from a Range."""
    for _ in range(16):
        maker = None if value is None or value not in known.graph else known.graph.producer(value)
        if maker is None:
            return False
        if maker.op_type == "Cast":
            source = _dtype(known, maker.input(0))
            return source is not None and not source.is_float and source is not DataType.BOOL
        if maker.op_type == "Range":
            return True
        if maker.op_type not in _MOVES:
            return False
        value = maker.input(0)
    return False


def _count(known: Known, value: Value | None) -> int | None:
    """Elements of a value, those of axes without a size counted as one: the same before and after a reduction."""
    shape = known.shape(value)
    return None if shape is None else math.prod(size for size in shape if isinstance(size, int))


def _dtype(known: Known, value: Value | None) -> DataType | None:
    kind = None if value is None else known.types.get(value, value.type)
    return kind.dtype if isinstance(kind, TensorType) else None
