"""Where to spend bits: fewer of them, fewer weights, or both, layer by layer. The answer to `advise --data`."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Unpack

from secateur.feeding import Loading, ModelLike, graph_of, open_data, refuse_unknown, title_of
from secateur.ir.errors import DataError, RefusedError
from secateur.passes.context import Context, Progress, silent
from secateur.passes.manager import run_pipeline
from secateur.passes.mix.advice import LayerAdvice, Spent, Verdict, advise_layers, verdict_of
from secateur.passes.mix.spending import BITS, WAYS
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.report import Entry
from secateur.running import runner_of
from secateur.text import Shown, finite, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType

FAST = {
    "2:4 SparseGPT, least squares": "2:4 FP16",
    "int8 gptq": "INT8",
    "2:4 + int8": "2:4 INT8",
    "int4 gptq": "INT4, weights alone",
    "nvfp4 nearest": "NVFP4",
}
"""The ways that TensorRT has kernels for, as they are at their best, and what these are called."""
_PRODUCTS = ("Gemm", "MatMul")
_OF_PRODUCTS = ("int4 gptq", "nvfp4 nearest")
"""Of these it has none for convolutions."""
_NO_SPEED = (
    "zeros that lie anywhere (50 %, 75 %) make files smaller when packed, and nothing faster: TensorRT has kernels for "
    "2:4 alone"
)
_DATA = "these are figures of weights: int8, fp8 and nvfp4 round what layers read as well, int4 and 2:4 do not"
_BOUND = "bounds say what no other choice of codes on the same grid, or of as many weights, can be better than"


class Spending(Loading, total=False):
    """How data is walked, with what the model runs (`runner`), and how many rows of each matrix are looked at."""

    runner: str
    outputs: int


@dataclass(frozen=True)
class SpendingAdvice(Shown):
    """What each layer is worth with each way to spend the same bits, and what to do first."""

    model: str
    data: str
    layers: tuple[LayerAdvice, ...]
    remarks: tuple[str, ...]

    @property
    def first(self) -> str:
        """What to do first, in one sentence."""
        found = self.network(8)
        if found == "prune":
            start = "sparsify first: at the size of 8 bits, layers lose less by half of their weights than by int8"
        elif found == "tie":
            start = "at the size of 8 bits it is a tie: quantize first, for int8 has kernels everywhere and 2:4 has not"
        else:
            start = "quantize to int8 first: it loses less than half of the weights would, at the same size"
        return f"{start}; {self._smaller()}"

    def _smaller(self) -> str:
        """What to do for fewer bits than that."""
        int4, both = self._of("int4 gptq", fast=True), self._of("2:4 + int8", fast=True)
        share = sum(layer.size for layer in self.layers if layer.op in _PRODUCTS) / sum(one.size for one in self.layers)
        if not int4 or share < 0.5:
            return "for fewer bits, 2:4 + int8: convolutions have no kernels for int4"
        if not both:
            return "for fewer bits, int4"
        ahead = verdict_of(_median_of(int4), _median_of(both))
        if ahead == "tie":
            return "for fewer bits, int4 (about 4) and 2:4 + int8 (5) are as good as each other"
        return f"for fewer bits, {'int4' if ahead == 'quantize' else '2:4 + int8'} leaves more of what layers give"

    def network(self, bits: int) -> Verdict | None:
        """The verdict of most weights."""
        votes: Counter[Verdict] = Counter()
        for layer in self.layers:
            if (verdict := layer.verdicts.get(bits)) is not None:
                votes[verdict] += layer.size
        return votes.most_common(1)[0][0] if votes else None

    def _of(self, way: str, *, fast: bool = False) -> list[Spent]:
        """What layers are worth with a way; `fast` leaves out those that have no kernels for it."""
        some = [one for one in self.layers if not fast or way not in _OF_PRODUCTS or one.op in _PRODUCTS]
        return [one for layer in some for one in layer.ways if one.way == way]

    def to_json(self) -> dict[str, Any]:
        """Every layer with every way; decibels, None where nothing is lost or no bound is known."""
        return {
            "model": self.model,
            "data": self.data,
            "first": self.first,
            "verdicts": {str(bits): self.network(bits) for bits in BITS},
            "fast": list(self._fast()),
            "layers": [
                finite({**asdict(layer), "verdicts": {str(bits): one for bits, one in layer.verdicts.items()}})
                for layer in self.layers
            ],
            "remarks": list(self.remarks),
        }

    def blocks(self) -> Iterable[RenderableType]:
        """What to do first, what has kernels, and a row for each layer."""
        yield heading(f"{self.model} on {self.data}: fewer bits or fewer weights", first=True)
        yield pairs({"first": self.first, **{f"{bits} bits": self._count(bits) for bits in BITS}})
        yield heading("what TensorRT has kernels for, the median of all layers")
        yield table(list(self._fast()))
        yield heading("signal to noise of what layers give, dB; behind a slash the bound")
        yield table(list(self._rows()))
        yield heading("ways, the median of all layers")
        yield table(list(self._ways()))
        yield from notes(self.remarks)

    def _count(self, bits: int) -> str:
        counted = Counter(layer.verdicts.get(bits, "neither") for layer in self.layers)
        words = ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))
        return f"{words} of {len(self.layers)} layers"

    def _fast(self) -> Iterator[dict[str, object]]:
        for way, name in FAST.items():
            if some := self._of(way, fast=True):
                stored = round(statistics.median(one.stored for one in some), 2)
                output = _median(one.output_db for one in some)
                yield {"runs as": name, "bits": stored, "outputs dB": output, "layers": len(some)}

    def _ways(self) -> Iterator[dict[str, object]]:
        for way in WAYS:
            if some := self._of(way.name):
                yield {
                    "way": way.name,
                    "nominal bits": way.bits,
                    "stored bits": round(statistics.median(one.stored for one in some), 2),
                    "weights dB": _median(one.weight_db for one in some),
                    "outputs dB": _median(one.output_db for one in some),
                    "bound dB": _median(one.bound_db for one in some),
                    "layers": len(some),
                }

    def _rows(self) -> Iterator[dict[str, object]]:
        for layer in self.layers:
            row: dict[str, object] = {"weight": layer.weight, "op": layer.op, "kurtosis": layer.kurtosis}
            for bits, names in ((8, ("int8", "50 %")), (4, ("int4", "75 %"))):
                row[names[0]] = _shown(layer.best("quantize", bits))
                row[names[1]] = _shown(layer.best("prune", bits))
                row[f"at {bits} bits"] = layer.verdicts.get(bits)
            row["2:4 + int8"] = _shown(layer.best("both", 5))
            yield row


def _median_of(some: Iterable[Spent]) -> float:
    """Of the outputs; infinite where nothing is lost."""
    return statistics.median(math.inf if one.output_db is None else one.output_db for one in some)


def _median(found: Iterable[float | None]) -> float | None:
    some = [one for one in found if one is not None]
    return statistics.median(some) if some else None


def _shown(one: Spent | None) -> str | None:
    if one is None or one.output_db is None:
        return None if one is None else "exact"
    return f"{one.output_db:.1f}" + (f" / {one.bound_db:.0f}" if one.bound_db is not None else "")


def advise(
    model: ModelLike, data: object, *, progress: Progress | None = None, **spending: Unpack[Spending]
) -> SpendingAdvice:
    """Tells, layer by layer, whether the same bits are better spent on fewer bits or on fewer weights.

    Kuzmin et al. 2023, "Pruning vs Quantization: Which is Better?": int8 against half of the weights, int4 against a
    quarter of them, each at its best, all other layers as they are. Constants are folded first, as `compress` does.

    Args:
        model: a graph, which stays as it is, or the path of an ONNX file.
        data: calibration data, a fifth of which judges; whatever `secateur.open_source` takes.
        progress: told `(description, done, total)`.
        spending: `batch_size` and `limit` (samples at most) of the data; `runner`, with what the model runs;
            `outputs`, so many rows of each matrix are looked at, at the most, evenly spaced (128).

    Raises:
        ModelError: the file is no model.
        DataError: there is no data, or it does not fit.
        RefusedError: no layer can be looked at, or `outputs` is below 1.
        BackendError: the runner is missing, or cannot run the model.
    """
    refuse_unknown(spending, Spending, "advise")
    outputs = spending.get("outputs", 128)
    if outputs < 1:
        raise RefusedError(f"outputs must be at least 1, found {outputs}", hint="128 are enough for most layers")
    if data is None:
        raise DataError("advise needs calibration data, but none was given", hint="give a few dozen typical inputs")
    runner = runner_of(spending.get("runner", "onnxruntime"))
    graph = graph_of(model)
    source = open_data(graph, data, batch_size=spending.get("batch_size"), limit=spending.get("limit"))
    context = Context(runner=runner, source=source, progress=progress or silent, report=Entry("advise"))
    graph = run_pipeline(graph, parse_pipeline("clean"), context).graph
    layers = advise_layers(graph, context, outputs)
    if not layers:
        raise RefusedError(
            f"no layer of {title_of(model)} can be looked at",
            hint=context.report.notes[0] if context.report.notes else "it has no layers with constant weights",
        )
    left_out = (note.replace(" stays dense: ", " is left out: ") for note in context.report.notes)
    return SpendingAdvice(title_of(model), source.name, tuple(layers), (_NO_SPEED, _DATA, _BOUND, *left_out))
