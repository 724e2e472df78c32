"""The `correct-bias` pass: what rounding shifts on average, biases take back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import CaptureOptions, PairedStream, Part, capture, capture_pairs
from secateur.calib.solvers.bias_shift import bias_shift, clipped_mean
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.matrix import as_matrices
from secateur.passes.layers.reads import rows_of
from secateur.passes.layers.stages import walk
from secateur.passes.scale.biases import Undo, add_to_bias, why_no_bias
from secateur.passes.scale.channels import Channels
from secateur.passes.scale.twin import float_twin, float_weights, is_rounded, read_weight

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Adds to the biases of quantized layers what their outputs lost on average by rounding; run it after `quantize`.

    Empirically, b += E[y_float] - E[y_quantized] for each output channel, layer after layer, each fed by what the
    quantized and corrected layers before it give, over the calibration data. Analytically, b += (W - Q(W)) E[x], with
    E[x] of a clipped normal distribution where a batch normalization (and a ReLU) makes x, and measured otherwise
    (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2 and
    appendices B and D). The floating-point model is this one with nothing rounded, its layers' weights those that it
    had before its first lossy pass, or when they were last fitted together; where these are not known, or others since,
    the weights as they are dequantized.
    """

    name: ClassVar[str] = "correct-bias"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE
    effect: ClassVar[Effect] = Effect.LOSSY

    method: Literal["empirical", "analytic"] = "empirical"
    """How the shift is found: measured at the outputs, or computed from the inputs' means."""
    judge: bool = True
    """Whether all stays as it was where the model's outputs err more for it, on the calibration data, if there is any:
    layers that are right on average do not always make a model that is."""

    def run(self, graph: Graph, context: Context) -> int:
        """Corrects every quantized layer that takes a bias; returns how many biases changed."""
        known = context.facts.get(known_fact)
        uses = [use for use in weight_uses(known) if _is_quantized(known, use) and self._fits(graph, use, context)]
        if not uses:
            return 0
        before, reasons = float_weights(known, context.reference, uses, context.needed_runner(self.name))
        for op, reason in reasons.items():
            context.note(f"{op} is held against its own weight as it is dequantized: {reason}")
        twin = float_twin(graph, known, uses, before)
        judged = self.judge and context.source is not None
        error = _error(graph, twin, context) if judged else np.inf
        if self.method == "analytic":
            changes = self._analytic(graph, known, uses, before, context)
        else:
            changes = self._empirical(graph, twin, uses, context)
        if changes and judged and not (after := _error(graph, twin, context)) <= error:
            for change in reversed(changes):
                change.undo()
            context.note(f"no bias is corrected: the outputs erred by {error:.3g}, and then by {after:.3g}")
            return 0
        for change in changes:
            context.row(weight=change.use.weight.name, largest_shift=change.largest, relative=change.relative)
        context.manifest.exact &= not changes
        return len(changes)

    def _empirical(self, graph: Graph, twin: Graph, uses: list[WeightUse], context: Context) -> list[_Change]:
        """b += E[y_float] - E[y_quantized]."""
        targets = {use.op: _channels(use) for use in uses}
        watched = {op.output.name: [channels] for op, channels in targets.items()}
        options = CaptureOptions(progress=context.progress)
        capture(twin, context.needed_source(self.name), context.needed_runner(self.name), watched, options)
        changes: list[_Change] = []

        def visit(which: int, streams: Streams) -> None:
            use = uses[which]
            context.progress(self.name, which, len(uses))
            if not context.allow(self.name, use.op):
                return
            wanted, now = targets[use.op], _channels(use)
            for fetched, weight in _runs(streams.present, use.op.output.name, context):
                now.update(fetched, weight)
            changes.extend(_correct(graph, use, wanted.mean - now.mean, float(np.sqrt(wanted.square))))

        walk(graph, graph, [[use.op] for use in uses], context, visit, is_steady=True)
        context.progress(self.name, len(uses), len(uses))
        return changes

    def _fits(self, graph: Graph, use: WeightUse, context: Context) -> bool:
        reason = why_no_bias(graph, use)
        if reason is not None:
            context.note(f"{use.op} keeps its bias: {reason}")
        return reason is None

    def _analytic(
        self, graph: Graph, known: Known, uses: list[WeightUse], before: Mapping[Op, NDArray[Any]], context: Context
    ) -> list[_Change]:
        """b += (W - Q(W)) E[x]."""
        factory = context.needed_runner(self.name)
        errors = {}
        for use in uses:
            if any(op.op_type != "DequantizeLinear" for op in use.chain):
                # The axes of the constant are not those of what the op reads.
                context.note(f"{use.op} keeps its bias: something lies between its weight and the op")
            elif use.op in before:
                difference = before[use.op].astype(np.float64) - read_weight(known, use, factory)
                errors[use.op] = as_matrices(use, difference) * float(use.op.attribute("alpha", 1.0))
        uses = [use for use in uses if use.op in errors]
        means = {use.op: found for use in uses if (found := _normal_mean(known, use)) is not None}
        changes: list[_Change] = []

        def visit(which: int, streams: Streams | None) -> None:
            use = uses[which]
            if not context.allow(self.name, use.op):
                return
            mean = means.get(use.op)
            mean = _input_mean(use, streams, context) if mean is None and streams is not None else mean
            assert mean is not None
            error = errors[use.op]
            zeros = np.zeros_like(error[0])
            shift = np.concatenate([bias_shift(one, zeros, some) for one, some in zip(error, mean, strict=True)])
            changes.extend(_correct(graph, use, shift, 0.0))

        if len(means) == len(uses):
            for which in range(len(uses)):
                visit(which, None)
        else:
            walk(graph, graph, [[use.op] for use in uses], context, visit, is_steady=True)
        return changes


@dataclass(frozen=True)
class _Change:
    """A bias that changed: the largest shift, also over the root mean square of the outputs, and the way back."""

    use: WeightUse
    largest: float
    relative: float | None
    undo: Undo


def _is_quantized(known: Known, use: WeightUse) -> bool:
    return any(op.op_type == "DequantizeLinear" for op in use.chain) or is_rounded(known, use.data)


def _channels(use: WeightUse) -> Channels:
    return Channels(use.outputs, use.output_axis)


def _runs(part: Part, name: str, context: Context) -> Iterator[tuple[NDArray[Any], float]]:
    factory = context.needed_runner("correct-bias")
    with factory(part.graph, inputs=part.inputs, outputs=[name]) as runner:
        for _, batch in part.walk():
            yield runner.run(batch.feeds)[name], batch.weight


def _input_mean(use: WeightUse, streams: Streams, context: Context) -> Array:
    """[slabs, columns] E[x] of what a layer reads, padding included."""
    slabs, total, count = use.slabs, None, 0.0
    for fetched, weight in _runs(streams.present, use.data.name, context):
        for (rows,), _ in rows_of(use, [fetched], None, 0, (context.seed,)):
            found = weight * rows.sum(axis=1, dtype=np.float64)
            total = found if total is None else total + found
            count += weight * rows.shape[1]
    assert total is not None
    mean: Array = total.reshape(slabs, -1) / count
    return mean


def _normal_mean(known: Known, use: WeightUse) -> Array | None:
    """[slabs, columns] E[x] where a batch normalization makes x, with a ReLU or a Clip behind it or without."""
    graph, value = known.graph, use.data
    low, high = -np.inf, np.inf
    for _ in range(4):
        op = graph.producer(value)
        if op is None:
            return None
        if op.key == ("", "BatchNormalization"):
            break
        if op.key == ("", "Relu"):
            low = max(low, 0.0)
        elif op.key == ("", "Clip"):
            bounds = [_bound(graph, op, port, name) for port, name in ((1, "min"), (2, "max"))]
            low, high = max(low, -np.inf if bounds[0] is None else bounds[0]), min(high, bounds[1] or np.inf)
        elif op.op_type not in ("Identity", "QuantizeLinear", "DequantizeLinear"):
            return None
        first = op.inputs[0]
        if first is None:
            return None
        value = first
    else:
        return None
    gain, shift = (graph.constant(op.input(port)) for port in (1, 2))
    if gain is None or shift is None or gain.size != use.inputs:
        return None
    mean, deviation = (one.numpy().astype(np.float64).reshape(-1) for one in (shift, gain))
    channels = clipped_mean(mean, deviation, low, high)
    slabs = channels.reshape(use.slabs, -1)
    columns = use.tensor.size * use.groups // (use.slabs * use.outputs)
    return np.repeat(slabs, columns // slabs.shape[1], axis=1)


def _bound(graph: Graph, op: Op, port: int, name: str) -> float | None:
    tensor = graph.constant(op.input(port))
    found = op.attribute(name, None) if tensor is None else float(tensor.numpy().reshape(-1)[0])
    return None if found is None else float(found)


def _correct(graph: Graph, use: WeightUse, shift: Array, size: float) -> Iterator[_Change]:
    """Adds `shift` [outputs] to the bias of a layer; nothing where that changes no number of it."""
    undo = add_to_bias(graph, use, shift)
    if undo is not None:
        largest = float(np.abs(shift).max())
        yield _Change(use, largest, largest / size if size > 0 else None, undo)


def _error(graph: Graph, twin: Graph, context: Context) -> float:
    """How much the outputs differ from the twin's: the squared error over their energy, summed over the outputs."""
    outputs = {value.name: _Error() for value in graph.outputs}
    pairs = {(name, name): [one] for name, one in outputs.items()}
    capture_pairs(PairedStream(twin, graph), context.needed_source("judging"), context.needed_runner("judging"), pairs)
    return sum(one.noise / one.energy for one in outputs.values() if one.energy)


class _Error:
    """The squared error of an output, and its energy."""

    def __init__(self) -> None:
        self.noise = self.energy = 0.0

    def update(self, array: NDArray[Any], target: NDArray[Any], weight: float) -> None:
        """Adds a batch; outputs that are no floating-point numbers, or whose shapes differ, count nothing."""
        if array.dtype.kind == "f" and array.shape == target.shape:
            self.noise += weight * float(np.square(array - target, dtype=np.float64).sum())
            self.energy += weight * float(np.square(target, dtype=np.float64).sum())
