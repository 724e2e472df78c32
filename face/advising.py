"""What a model can gain on a device before any work is done: the answer to `secateur advise`."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from secateur.feeding import ModelLike, graph_of, refuse_unknown, title_of
from secateur.ir.errors import RefusedError
from secateur.ir.kernel_times import KernelTimes, load_kernel_times
from secateur.ir.known_targets import find_target
from secateur.ir.measured_times import newest_kernel_times
from secateur.ir.onnx_shapes import infer
from secateur.ir.roofline import weight_bytes
from secateur.ir.rules.known import Known
from secateur.ir.rules.sparse_kernels import unfit
from secateur.ir.rules.weights import weight_rules, weight_uses_of
from secateur.ir.sizes import input_shapes, with_sizes
from secateur.ir.targets import Format, Target
from secateur.ir.types import Dim
from secateur.passes.layers.gains import LEAST, LayerGain, NetworkGain, Question, network_gain
from secateur.text import Shown, amount, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType


MEASURED = "measured"
"""What stands for the newest table that was measured on this machine; a file of this name is `./measured`."""


class Assumptions(TypedDict, total=False):
    """What a run is taken to be: shapes of inputs, the batch where those leave it open, the least gain worth zeros.

    `times` is a file of measured kernels, which count instead of the roofline, or "measured": the newest table that
    `measure_kernels` left on this machine for the target.
    """

    shapes: Mapping[str, Sequence[int]]
    batch: int | None
    least: float
    times: str | os.PathLike[str] | None


@dataclass(frozen=True)
class SparsityAdvice(Shown):
    """Which layers of a model can gain by 2:4 weights on a target, and what the whole can gain at most."""

    model: str
    target: Target
    format: Format
    inputs: dict[str, tuple[Dim, ...]]
    least: float
    measured_on: str | None
    unfit: str | None
    """Why no layer at all can gain."""
    found: NetworkGain
    remarks: tuple[str, ...]

    @property
    def sparse(self) -> tuple[LayerGain, ...]:
        """The layers that can gain."""
        return tuple(layer for layer in self.found.layers if layer.can_gain)

    @property
    def verdict(self) -> str:
        """One sentence."""
        count, gain = len(self.sparse), self.found.gain
        can = f"{count} of {len(self.found.layers)} layers can gain"
        if not count:
            return f"{can}" + (f", for {self.unfit}" if self.unfit else "") + ": leave the model dense"
        fused = self.found.gain_on_chip
        at_most = "by these times" if fused is None else "at most"
        more = "" if fused is None else f", {fused:.2f} if nothing but weights came from memory"
        return f"{can}; end to end {at_most} {gain:.2f} times as fast ({_less(gain)} less time){more}"

    def to_json(self) -> dict[str, Any]:
        """Every layer with its reason, and the totals; seconds and bytes, no prefixes."""
        return {
            "model": self.model,
            "target": {
                "name": self.target.name,
                "capability": ".".join(map(str, self.target.capability)),
                "peak": dict(self.target.peak),
                "sparse": dict(self.target.sparse),
                "bandwidth": self.target.bandwidth,
                "cache": self.target.cache,
                "source": self.target.source,
            },
            "format": self.format.value,
            "inputs": self.inputs,
            "least": self.least,
            "measured_on": self.measured_on,
            "unfit": self.unfit,
            "verdict": self.verdict,
            "can_gain": len(self.sparse),
            "gain": self.found.gain,
            "gain_on_chip": self.found.gain_on_chip,
            "seconds": self.found.seconds,
            "other_ops": self.found.others,
            "other_seconds": self.found.other_seconds,
            "uncounted": self.found.uncounted,
            "layers": [
                {**asdict(layer), "can_gain": layer.can_gain, "gain": layer.gain} for layer in self.found.layers
            ],
            "remarks": self.remarks,
        }

    def blocks(self) -> Iterable[RenderableType]:
        """The verdict, what it rests on, and the layers, alike ones in one row, longest time first."""
        yield heading(f"{self.model} on {self.target.title}, {self.format}", first=True)
        yield pairs(self._figures())
        if self.found.layers:
            yield heading("layers")
            yield table(list(self._rows()))
        yield from notes(self.remarks)

    def _figures(self) -> dict[str, str]:
        peak, found = self.target.peak[self.format], self.found
        return {
            "verdict": self.verdict,
            "inputs": ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.inputs.items()),
            "target": f"{amount(peak, 'op/s')}, {amount(self.target.bandwidth, 'B/s')}: {self.target.source}",
            "least time": f"{_time(found.seconds)}, of which {_time(found.other_seconds)} in {found.others} other ops",
        }

    def _rows(self) -> Iterator[dict[str, object]]:
        alike: dict[tuple[str, *tuple[object, ...]], list[LayerGain]] = {}
        for layer in self.found.layers:
            kind = layer.op.partition(" ")[0]
            alike.setdefault((kind, layer.shape, layer.rows, layer.bound, layer.reason), []).append(layer)
        whole = self.found.seconds or 1.0
        for (kind, *_), some in sorted(alike.items(), key=lambda entry: -sum(layer.seconds for layer in entry[1])):
            first = some[0]
            yield {
                "layers": len(some),
                "the first reads": first.weight,
                "op": kind,
                "shape": "x".join(map(str, first.shape)),
                "rows": first.rows,
                "MACs": amount(first.macs),
                "op / B": round(first.intensity),
                "bound by": first.bound,
                "time": f"{sum(layer.seconds for layer in some) / whole:.1%}".replace("%", " %"),
                "gain": f"{first.gain:.2f}" if first.can_gain else None,
                "stays dense, for": None if first.reason == self.unfit else first.reason,
            }


def advise_sparsity(
    model: ModelLike, target: str | Target, format: str = "fp16", **assumptions: Unpack[Assumptions]
) -> SparsityAdvice:
    """Tells which layers can take a 2:4 kernel, what each gains at most, and what the whole model gains at most.

    Nothing is run. Times are those of a roofline (`secateur.ir.roofline`) with every float in `format`, so gains are
    upper bounds; with `times`, a table that `measure_kernels` wrote, measured layers count as measured.

    Args:
        model: a graph, or the path of an ONNX file.
        target: a device: its name ("l4"), compute capability ("8.9"), TOML or JSON file; see
            `secateur.ir.known_targets.find_target`.
        format: what runs: fp32, tf32, fp16, bf16, fp8 or int8.
        assumptions: `shapes` of inputs by name, `batch` for what those leave open, `least` gain that zeros are worth
            (1.05), and `times`.

    Raises:
        ModelError: the file is no model.
        DataError: there is no such target, a shape does not fit or stays open, or the times cannot be read, or are not
            there.
        RefusedError: there is no such format, or the target does not have it.
    """
    refuse_unknown(assumptions, Assumptions, "advise_sparsity")
    device = find_target(target) if isinstance(target, str) else target
    form, least = _format(format), assumptions.get("least", LEAST)
    if not 1 <= least <= 2:
        raise RefusedError(f"the least gain must be from 1 to 2, found {least:g}", hint="2:4 doubles speed at most")
    times = _times(assumptions.get("times"), device)
    shapes = {name: tuple(shape) for name, shape in assumptions.get("shapes", {}).items()}
    graph = with_sizes(graph_of(model), shapes, assumptions.get("batch"))
    known = Known(graph, infer(graph))
    question = Question(device, form, least, times)
    found = network_gain(known, question)
    return SparsityAdvice(
        model=title_of(model),
        target=device,
        format=form,
        inputs=input_shapes(graph),
        least=least,
        measured_on=None if times is None else times.device,
        unfit=unfit(device, form),
        found=found,
        remarks=tuple(_remarks(known, found, question)),
    )


def _format(name: str) -> Format:
    if name not in list(Format):
        raise RefusedError(f"there is no format {name!r}", hint=f"give one of {', '.join(Format)}")
    return Format(name)


def _times(given: str | os.PathLike[str] | None, target: Target) -> KernelTimes | None:
    if given is None:
        return None
    return newest_kernel_times(target) if given == MEASURED else load_kernel_times(given, target)


def _less(gain: float) -> str:
    return f"{1 - 1 / gain:.1%}".replace("%", " %")


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


def _remarks(known: Known, found: NetworkGain, question: Question) -> Iterator[str]:
    """What the figures rest on, and what to do."""
    yield from _basis(found, question)
    if any(layer.can_gain for layer in found.layers):
        yield from _cautions(found, question)
        yield f"layers that gain less than {question.least:g} times as fast at most stay dense"
    elif any(layer.bound == "memory" for layer in found.layers):
        yield "fewer bits (quantize) or smaller layers (prune) move fewer bytes, and need no sparse kernel"
    if found.uncounted:
        yield f"{len(found.uncounted)} ops of unknown shapes take no time here, such as {found.uncounted[0]}"
    graph = known.graph
    products = [op for op in graph.ops() if weight_rules.get(op) and not any(weight_uses_of(known, op))]
    if products:
        yield f"{len(products)} products have no constant weight, such as {products[0]}, and stay as they are"
    inside = sum(len(part.ops()) for part in graph.graphs() if part is not graph)
    inside += sum(len(part.ops()) for body in graph.functions.values() for part in body.graphs())
    if inside:
        yield f"{inside} ops lie in bodies or functions and take no time here"


def _basis(found: NetworkGain, question: Question) -> Iterator[str]:
    """Where the times come from."""
    target, form = question.target, question.form
    if question.times is None:
        yield (
            f"nothing was measured: these are bounds by peak rates, every float in {form}, every op a trip through "
            "memory; real kernels are slower, and a sparse one may lose to the dense one"
        )
    else:
        measured = sum(layer.bound == "measured" for layer in found.layers)
        yield (
            f"{measured} of {len(found.layers)} layers were measured, on {question.times.device}; for all else bounds "
            "by peak rates stand in"
        )
    sizes = {layer.weight: math.prod(layer.shape) for layer in found.layers}
    held = sum(weight_bytes(size, form) for size in sizes.values())
    if target.cache is not None and 0 < held <= target.cache:
        yield (
            f"the cache of {amount(target.cache, 'B')} holds all {amount(held, 'B')} of these weights: in run after "
            "run they need not come from memory, and layers bound by memory gain less"
        )


def _cautions(found: NetworkGain, question: Question) -> Iterator[str]:
    """What is known of kernels that exist, but are not taken, or lose."""
    narrow = sum(layer.can_gain and layer.bound != "measured" and min(layer.shape[:2]) < 256 for layer in found.layers)
    if narrow:
        yield (
            f"{narrow} of those that can gain have fewer than 256 inputs or outputs, where sparse convolutions are no "
            "faster, say TensorRT's developers (issues 3849 and 4065): measure first"
        )
    if question.form is Format.FP8 and question.target.capability == (8, 9):
        yield "no library is known to take sparse fp8 kernels on 8.9 (TensorRT-LLM issue 1913): measure first"
    if question.form is Format.INT8:
        yield "TensorRT may pass over sparse kernels behind Q/DQ (TensorRT issue 4694): measure first"
