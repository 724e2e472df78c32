"""The `absorb-bias` pass: what every sample has in common moves on into the next bias, and ranges get smaller."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import CaptureOptions, capture
from secateur.calib.solvers.equalization import absorbed, moved_on
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, strangers, weight_uses
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.matrix import added_bias, matrices_of
from secateur.passes.scale.biases import add_to_bias, why_no_bias
from secateur.passes.scale.channels import Channels

Array: TypeAlias = NDArray[np.float64]

_UNPADDED = ("", "NOTSET", "VALID")


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Takes c from the bias of a layer before a ReLU, and adds what c makes of it to the biases of what reads it.

    relu(x - c) = relu(x) - c wherever x >= c, and c = max(0, mean - 3 deviations) of the channel over the calibration
    data, so that this is nearly everywhere (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
    Bias Correction", section 4.1.3). Activations then have smaller ranges, most of all behind `equalize`, which may
    have made biases large. Layers that pad with zeros would see c missing there, so what they read stays as it is.
    """

    name: ClassVar[str] = "absorb-bias"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.LOSSY

    deviations: float = 3.0
    """How many standard deviations a channel keeps above zero."""

    def __post_init__(self) -> None:
        if not self.deviations >= 0:
            raise ValueError(f"deviations must not be negative, got {self.deviations}")

    def run(self, graph: Graph, context: Context) -> int:
        """Moves what it may; returns from how many layers."""
        spots = list(_spots(context.facts.get(known_fact), context))
        if not spots:
            return 0
        if context.source is None:
            raise RefusedError(f"{self} needs calibration data, but none was given", hint="give --data")
        found = {spot.before: Channels(spot.maker.outputs, spot.maker.output_axis) for spot in spots}
        watchers = {value.name: [one] for value, one in found.items()}
        capture(
            graph, context.source, context.needed_runner(self.name), watchers, CaptureOptions(progress=context.progress)
        )
        done = 0
        for spot in spots:
            channels = found[spot.before]
            amount = absorbed(channels.mean, np.sqrt(channels.variance), self.deviations)
            if not amount.any() or not context.allow(self.name, spot.maker.op):
                continue
            for use in spot.readers:
                add_to_bias(graph, use, _moved(use, amount))
            done += add_to_bias(graph, spot.maker, -amount) is not None
            context.manifest.exact = False
            context.row(
                weight=spot.maker.weight.name,
                readers=", ".join(use.weight.name for use in spot.readers),
                channels=int(np.count_nonzero(amount)),
                largest=float(amount.max()),
                range_before=channels.largest,
            )
        return done


@dataclass(frozen=True)
class _Spot:
    """A layer, the value with its bias that a ReLU reads, and the layers that read that."""

    maker: WeightUse
    before: Value
    readers: tuple[WeightUse, ...]


def _spots(known: Known, context: Context) -> Iterator[_Spot]:
    graph = known.graph
    readers: dict[Value, list[WeightUse]] = {}
    uses = [use for use in weight_uses(known) if use.tensor.dtype.is_float]
    for use in uses:
        readers.setdefault(use.data, []).append(use)
    for use in uses:
        if why_no_bias(graph, use) is not None:
            continue
        behind = added_bias(graph, use)
        before = use.op.output if behind is None else behind.op.output
        relu = _only_reader(graph, before)
        if relu is None or relu.key != ("", "Relu"):
            continue
        found = readers.get(relu.output, [])
        reason = _held(graph, relu.output, found)
        if reason is None:
            yield _Spot(use, before, tuple(found))
        else:
            context.note(f"{relu.output.name} keeps what is common to it: {reason}")


def _only_reader(graph: Graph, value: Value) -> Op | None:
    readers = graph.consumers(value)
    return readers[0] if len(readers) == 1 and value not in graph.outputs else None


def _held(graph: Graph, value: Value, readers: list[WeightUse]) -> str | None:
    """Why nothing can be taken from all channels of a value; None where it can."""
    if value in graph.outputs or {use.op for use in readers} != set(graph.consumers(value)):
        return "something else than layers reads it"
    for use in readers:
        if reason := why_no_bias(graph, use):
            return f"{use.op}: {reason}"
        if strangers(graph, use.weight, [use]):
            return f"{use.op}: its weight is read elsewhere, too"
        if use.is_transposed or any(use.op.attribute("pads", ())) or use.op.attribute("auto_pad", "") not in _UNPADDED:
            return f"{use.op} pads it with zeros"
    return None


def _moved(use: WeightUse, amount: Array) -> Array:
    """[outputs] what a layer makes of `amount` [inputs]."""
    matrices, by_slab = matrices_of(use), amount.reshape(use.slabs, -1)
    shape = (*matrices.shape[:2], by_slab.shape[1], -1)
    pairs = zip(by_slab, matrices.reshape(shape), strict=True)
    return np.concatenate([moved_on(mine, matrix) for mine, matrix in pairs])
