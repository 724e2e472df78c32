"""Which layers are quantized to what: weights with all their readers, and the reason for each that stays in float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from secateur.calib.finite import count_bad
from secateur.calib.solvers.grids import FP8
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.packed_heads import is_packed
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.quantize.formats import Format, find_format
from secateur.passes.registry import suggest

_FLOATS = ("f32", "f16", "bf16")
_CARRIED = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Ops that TensorRT moves a DequantizeLinear through: what lies between a stored weight and its op may be these."""
_CONVOLUTION, _PRODUCTS = "Conv", ("Gemm", "MatMul")
_PIECE = 1 << 22
_FP8_TAPS, _FP8_CHANNELS = 32, 16


@dataclass(frozen=True)
class Layer:
    """One weight and the ops that read it alike.

    Attributes:
        uses: these ops; their weight, its axes and its matrices are the same.
        format: what it is quantized to.
        block: how many of its weights share a scale; None for one scale an output channel.
        whole: one scale for all of the weight.
    """

    uses: tuple[WeightUse, ...]
    format: Format
    block: int | None
    whole: bool = False

    @property
    def use(self) -> WeightUse:
        """The first use, which stands for all as far as the weight goes."""
        return self.uses[0]

    @property
    def weight(self) -> Value:
        """The float constant."""
        return self.use.weight


@dataclass(frozen=True)
class Wishes:
    """What is asked for: a format, and others (or none) for weights by name.

    Attributes:
        format: of all that are not named; None for float.
        named: globs for names of weights, each with its format; the first that fits counts.
    """

    format: Format | None
    named: tuple[tuple[str, Format | None], ...] = ()

    def of(self, name: str) -> Format | None:
        """The format that a weight of this name is to get."""
        return next((wanted for glob, wanted in self.named if fnmatchcase(name, glob)), self.format)

    def is_named(self, name: str) -> bool:
        """Whether the format of a weight is asked for by name."""
        return any(fnmatchcase(name, glob) for glob, _ in self.named)

    @property
    def formats(self) -> tuple[Format, ...]:
        """All that are asked for."""
        return tuple(one for one in (self.format, *(wanted for _, wanted in self.named)) if one is not None)


def parse_named(text: str) -> tuple[str, Format | None]:
    """Reads `*head*:float` or `*down*:int4`: a glob for names of weights, and their format.

    Raises:
        ValueError: it is none.
    """
    names, colon, wanted = text.rpartition(":")
    if not colon or not names:
        raise ValueError(f"expected a name or glob, a colon and a number format, such as *head*:float; got {text!r}")
    return names, find_format(wanted)


def choose_layers(known: Known, wishes: Wishes, context: Context) -> list[Layer]:
    """The layers to quantize, in the order of their ops; notes for those that stay in float.

    Raises:
        RefusedError: a glob fits no weight.
    """
    layers, refused = sorted_layers(known, wishes)
    for weight, reason in refused:
        context.note(f"{weight.name} stays in float: {reason}", asked=wishes.of(weight.name) is None)
    for layer in layers:
        if layer.whole:
            context.note(f"{layer.weight.name} gets one scale: TensorRT computes {layer.use.op} in float with several")
    return layers


def sorted_layers(known: Known, wishes: Wishes) -> tuple[list[Layer], list[tuple[Value, str]]]:
    """The layers to quantize, in the order of their ops, and the weights that stay in float, with the reasons.

    Raises:
        RefusedError: a glob fits no weight.
    """
    readers: dict[tuple[object, ...], list[WeightUse]] = {}
    for use in weight_uses(known):
        if not is_quantized(use):
            key = (use.weight, use.chain, use.order, use.rows, use.contracted, use.groups)
            readers.setdefault(key, []).append(use)
    _check_names(wishes, [uses[0].weight.name for uses in readers.values()])
    layers: list[Layer] = []
    refused: list[tuple[Value, str]] = []
    for uses in readers.values():
        use, wanted = uses[0], wishes.of(uses[0].weight.name)
        block = wanted.fitting_block(use.inputs) if wanted is not None and wanted.is_blocked else None
        reason = _refusal(known, uses, wanted, block)
        if reason is None and not wishes.is_named(use.weight.name):
            reason = _loss(use, wanted)
        if reason is not None:
            refused.append((use.weight, reason))
        elif wanted is not None:
            whole = not wanted.is_blocked and any(not one.taps and is_packed(known, one.op) for one in uses)
            layers.append(Layer(tuple(uses), wanted, block, whole))
    return layers, refused


def is_quantized(use: WeightUse) -> bool:
    """True for a weight that is made of codes already."""
    return any(op.op_type in ("QuantizeLinear", "DequantizeLinear") for op in use.chain)


def _check_names(wishes: Wishes, names: Iterable[str]) -> None:
    known = list(names)
    for glob, _ in wishes.named:
        if not any(fnmatchcase(name, glob) for name in known):
            raise RefusedError(f"no weight is called {glob!r}, as formats say", hint=suggest(glob, known))


def _refusal(known: Known, uses: Sequence[WeightUse], wanted: Format | None, block: int | None) -> str | None:
    """Why a weight stays in float; None where it need not."""
    use = uses[0]
    if wanted is None:
        return "formats say so"
    if reason := _stored_otherwise(use):
        return reason
    if any(known.graph.constant(one.data) is not None for one in uses):
        return "its data is a constant too"
    if wanted.grid == FP8 and math.prod(use.tensor.shape[axis] for axis in use.taps) > _FP8_TAPS:
        return f"TensorRT computes an fp8 kernel of more than {_FP8_TAPS} positions in float"
    if wanted.is_blocked:
        return _unfit_for_blocks(known.graph, uses, wanted, block) or _not_last(known, uses, wanted)
    return None


def _loss(use: WeightUse, wanted: Format | None) -> str | None:
    """Why a layer is left in float unless its weight is named; None where it need not be.

    The first layer of VGG, ResNet and EfficientNet and the depthwise ones of the last bring most of the error of fp8.
    """
    channels = use.tensor.shape[use.contracted]
    if wanted is None or wanted.grid != FP8 or wanted.is_blocked or channels >= _FP8_CHANNELS:
        return None
    few = f"{channels} input channel{'s' * (channels > 1)}"
    return f"errors of {wanted.name} do not average over {few}, and kernels multiply 32 at once; formats can name it"


def _stored_otherwise(use: WeightUse) -> str | None:
    if use.tensor.dtype.short not in _FLOATS or use.weight.const is not use.tensor:
        return f"{use.op} reads it as {use.tensor.dtype.short}"
    if use.is_transposed:
        return "TensorRT runs a quantized ConvTranspose in float all the same"
    if use.op.domain or use.op.op_type not in (_CONVOLUTION, *_PRODUCTS):
        return f"TensorRT takes no quantized {use.op.op_type}"
    if use.batch or len(use.rows) > 1 or any(op.op_type not in _CARRIED or op.domain for op in use.chain):
        return f"{use.op} reads it stacked, or behind other ops"
    return None if _is_finite(use.tensor) else "it holds NaN or infinity"


def _unfit_for_blocks(graph: Graph, uses: Sequence[WeightUse], wanted: Format, block: int | None) -> str | None:
    use = uses[0]
    if use.op.op_type not in _PRODUCTS:
        return (
            f"{wanted.name} is a format of matrix products, and TensorRT computes a {use.op.op_type} in float with it"
        )
    if block is None:
        return f"its {use.inputs} input channels make no blocks of {wanted.block} or of fewer, down to 16"
    # The last axis holds two codes of four bits in a byte; more dimensions than the two are not taken.
    return f"it has {len(use.tensor.shape)} axes" if len(use.tensor.shape) != 2 else None


def _not_last(known: Known, uses: Sequence[WeightUse], wanted: Format) -> str | None:
    """Data that is quantized as the model runs has its blocks along the last axis."""
    for use in uses if wanted.dynamic else ():
        rank = known.rank(use.data)
        if use.port != 1 or rank is None or use.data_axis % rank != rank - 1:
            return f"the input channels of {use.op} are not the last axis of its data"
    return None


def _is_finite(tensor: Tensor) -> bool:
    """Read a piece at a time."""
    pieces = (tensor.elements(start, min(start + _PIECE, tensor.size)) for start in range(0, tensor.size, _PIECE))
    return not any(count_bad(piece) for piece in pieces)
