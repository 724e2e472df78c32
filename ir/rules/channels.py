"""Which ops carry channel i of their data input to channel i of their output, whatever else they do to it.

What a carrier reads per channel (a BatchNormalization's scale, a depthwise kernel) is told with the axis to slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable


@dataclass(frozen=True, slots=True)
class Carried:
    """Channels pass. `axis` is where they lie in the output, `stride` how many consecutive entries there belong to one.

    `parameters` are (input port, axis) of constants that have one entry a channel; `group` says that the op's `group`
    attribute counts channels.
    """

    axis: int
    stride: int = 1
    parameters: tuple[tuple[int, int], ...] = ()
    group: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where channels lie in a value: an axis, `channels` of them, each `stride` entries long, in a value of `rank`."""

    axis: int
    channels: int
    stride: int
    rank: int


ChannelRule: TypeAlias = Callable[[Known, Op, Place], Carried | str]
"""Given where the channels lie in the op's data input: how they pass, or the reason why they don't."""

channel_rules: RuleTable[ChannelRule] = RuleTable("does it carry channel i of its input to channel i of its output?")
_register = channel_rules.register


_POINTWISE = """
    Relu LeakyRelu Elu Selu Celu ThresholdedRelu Sigmoid HardSigmoid HardSwish Swish Mish Tanh Softplus Softsign Gelu
    Erf Exp Log Sqrt Neg Abs Floor Ceil Round Sin Cos Reciprocal Identity Dropout Cast Clip Not
"""


@_register(*_POINTWISE.split())
def _pointwise(known: Known, op: Op, place: Place) -> Carried | str:
    return Carried(place.axis, place.stride)


@_register(*"Add Sub Mul Div Min Max Pow Where PRelu".split())
def _broadcast(known: Known, op: Op, place: Place) -> Carried | str:
    parameters = []
    for port, value in enumerate(op.inputs):
        tensor = known.constant(value)
        if value is None or tensor is None:
            continue
        axis = place.axis - place.rank + len(tensor.shape)
        if len(tensor.shape) > place.rank:
            return f"{op} broadcasts it to a higher rank"
        if axis >= 0 and tensor.shape[axis] != 1:
            parameters.append((port, axis))
    return Carried(place.axis, place.stride, tuple(parameters))


@_register(*"MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool".split())
def _pool(known: Known, op: Op, place: Place) -> Carried | str:
    if len(op.outputs) > 1:
        return f"{op} gives indices, which count channels"
    return Carried(place.axis) if place.axis == 1 and place.stride == 1 else f"{op} pools over the channels"


@_register("BatchNormalization")
def _batch_normalization(known: Known, op: Op, place: Place) -> Carried | str:
    if op.attribute("training_mode", 0) or len(op.outputs) > 1:
        return f"{op} is in training mode"
    return Carried(1, parameters=((1, 0), (2, 0), (3, 0), (4, 0)))


@_register("Conv")
def _depthwise(known: Known, op: Op, place: Place) -> Carried | str:
    weight = known.constant(op.input(1))
    if weight is None or weight.shape[1] != 1 or op.attribute("group", 1) != place.channels:
        return f"{op} is neither depthwise nor a consumer with one group"
    if weight.shape[0] != place.channels:
        return f"{op} makes {weight.shape[0]} channels of {place.channels}"
    bias = ((2, 0),) if op.input(2) is not None else ()
    return Carried(1, parameters=((1, 0), *bias), group=True)


@_register("Pad")
def _pad(known: Known, op: Op, place: Place) -> Carried | str:
    given = op.attribute("pads")
    tensor = known.constant(op.input(1)) if given is None else None
    pads = list(given) if given is not None else [] if tensor is None else tensor.numpy().tolist()
    if len(pads) != 2 * place.rank or op.input(3) is not None:
        return f"{op} pads by amounts that are not constant for every axis"
    if pads[place.axis] or pads[place.axis + place.rank]:
        return f"{op} pads the channels"
    return Carried(place.axis, place.stride)


@_register("Flatten")
def _flatten(known: Known, op: Op, place: Place) -> Carried | str:
    if op.attribute("axis", 1) != 1 or place.axis != 1:
        return f"{op} does not flatten what lies behind the channels"
    return _behind(op, known, place)


@_register("Reshape")
def _reshape(known: Known, op: Op, place: Place) -> Carried | str:
    target = known.constant(op.input(1))
    sizes: Sequence[int] = [] if target is None else target.numpy().tolist()
    if len(sizes) != 2 or sizes[1] != -1 or place.axis != 1:
        return f"{op} does not say [batch, -1], so its target would have to change with the channels"
    return _behind(op, known, place)


@_register("ReduceMean", "ReduceMax", "ReduceSum")
def _reduce(known: Known, op: Op, place: Place) -> Carried | str:
    axes = reduced_axes(known, op, place.rank)
    if axes is None or place.axis in axes or (op.attribute("keepdims", 1) == 0 and min(axes, default=9) < place.axis):
        return f"{op} reduces over the channels, or over axes that are not known"
    return Carried(place.axis, place.stride)


def reduced_axes(known: Known, op: Op, rank: int) -> set[int] | None:
    """The axes that a Reduce op reduces, non-negative; None where they are computed at run time."""
    given = op.attribute("axes")
    if given is None and op.input(1) is not None:
        tensor = known.constant(op.input(1))
        if tensor is None:
            return None
        given = tensor.numpy().reshape(-1).tolist()
    if not given:
        return set() if op.attribute("noop_with_empty_axes", 0) else set(range(rank))
    return {int(axis) % rank for axis in given}


def _behind(op: Op, known: Known, place: Place) -> Carried | str:
    """[N, C, ...] becomes [N, C * rest]: channel i keeps `rest` neighbouring columns."""
    shape = known.shape(op.outputs[0])
    made = shape[1] if shape is not None and len(shape) == 2 else None
    if not isinstance(made, int) or made % place.channels:
        return f"{op}: the size behind the channels is not known"
    return Carried(1, made // place.channels)
