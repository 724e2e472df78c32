"""Two graphs side by side on the same data: how far their outputs are apart, how large they are, how fast they run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from secateur.backends.difference import ClassDifference, Difference
from secateur.backends.divergence import Divergence, DivergenceOptions, find_divergence
from secateur.backends.latency import Latency, latency
from secateur.backends.protocols import FeedSource
from secateur.ir import DataType, Graph, Value
from secateur.ir.errors import DataError, GraphError
from secateur.ir.runner import RunnerFactory


@dataclass(frozen=True)
class CompareOptions:
    """What to find out beside the error of the outputs.

    Attributes:
        labels: [samples] the right class of each sample, in the order of the data, for outputs that look like scores.
        inner: look for the first inner value whose error jumps, with these settings.
        repeats: timed runs of each graph on the first batch with onnxruntime; 0 for none.
        threads: for the timed runs.
        macs: multiply-accumulate operations of a graph; None where they are not known.
        progress: is told what is being done, how many batches are done, and of how many if that is known.
    """

    labels: NDArray[Any] | None = None
    inner: DivergenceOptions | None = None
    repeats: int = 0
    threads: int = 1
    macs: Callable[[Graph], int | None] | None = None
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True)
class OutputComparison:
    """How far one output of b is from that of a, over all batches.

    `sqnr_db` is infinite where there is no difference, minus infinite where a is zero and b is not. The last five are
    None unless the output is a float array [n, classes > 1]: they take it for the scores of classes
    (`secateur.backends.difference.ClassDifference`).
    """

    name: str
    name_b: str
    type: str
    elements: int
    sqnr_db: float
    max_abs: float
    mean_abs: float
    max_relative: float
    cosine: float
    agreement: float
    nonfinite_a: int
    nonfinite_b: int
    top1: float | None = None
    top5: float | None = None
    divergence: float | None = None
    accuracy_a: float | None = None
    accuracy_b: float | None = None


@dataclass(frozen=True)
class GraphSize:
    """What a graph weighs: bytes as a file, elements of its weights, multiply-accumulate operations."""

    bytes: int
    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; a is the reference. `unmatched` are outputs that only one of the graphs has."""

    batches: int
    outputs: tuple[OutputComparison, ...]
    unmatched: tuple[str, ...]
    size_a: GraphSize
    size_b: GraphSize
    latency: Latency | None = None
    inner: Divergence | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON's own types; an SQNR without a difference is None, and `max_abs` 0 beside it."""
        document: dict[str, Any] = _plain(dataclasses.asdict(self))
        return document

    def output_rows(self) -> list[dict[str, str]]:
        """One row for each output, by column heading, numbers formatted, columns left out that no output has."""
        columns: dict[str, Callable[[OutputComparison], str]] = {
            "output": lambda o: o.name if o.name == o.name_b else f"{o.name} / {o.name_b}",
            "type": lambda o: o.type,
            "SQNR dB": lambda o: _shown(o.sqnr_db, ".1f"),
            "max |a-b|": lambda o: _shown(o.max_abs, ".3g"),
            "mean |a-b|": lambda o: _shown(o.mean_abs, ".3g"),
            "max relative": lambda o: _shown(o.max_relative, ".3g"),
            "cosine": lambda o: _shown(o.cosine, ".6f"),
            "equal": lambda o: _shown(o.agreement, ".2%"),
            "NaN or inf": lambda o: f"{o.nonfinite_a} / {o.nonfinite_b}" if o.nonfinite_a or o.nonfinite_b else "",
            "top-1": lambda o: _shown(o.top1, ".2%"),
            "top-5": lambda o: _shown(o.top5, ".2%"),
            "KL": lambda o: _shown(o.divergence, ".3g"),
            "accuracy": lambda o: "" if o.accuracy_a is None else f"{o.accuracy_a:.2%} / {o.accuracy_b:.2%}",
        }
        rows = [{heading: cell(output) for heading, cell in columns.items()} for output in self.outputs]
        used = [heading for heading in columns if any(row[heading] for row in rows)]
        return [{heading: row[heading] for heading in used} for row in rows]

    def size_rows(self) -> list[tuple[str, str, str, str]]:
        """(what, of a, of b, b / a) for bytes, parameters, MACs and latency, as far as they are known."""
        rows = [
            _ratio("bytes", self.size_a.bytes, self.size_b.bytes, ",d"),
            _ratio("parameters", self.size_a.parameters, self.size_b.parameters, ",d"),
        ]
        if self.size_a.macs is not None and self.size_b.macs is not None:
            rows.append(_ratio("MACs", self.size_a.macs, self.size_b.macs, ",d"))
        if self.latency is not None:
            rows.append(_ratio("latency ms", 1e3 * self.latency.median_a, 1e3 * self.latency.median_b, ".3f"))
        return rows


def compare(
    graph_a: Graph,
    graph_b: Graph,
    source: FeedSource,
    runner_factory: RunnerFactory,
    options: CompareOptions = CompareOptions(),
) -> Comparison:
    """Runs both graphs on the same batches, one batch at a time, and compares what they give.

    Outputs are matched by name, then those left over by position.

    Args:
        graph_a: the reference.
        graph_b: the other; it takes the same inputs.
        source: batches with `feeds` of exactly the dtypes that the graphs take.
        runner_factory: what runs both.
        options: what else to find out.

    Raises:
        GraphError: the inputs differ, no output matches, or matched outputs have different shapes.
        DataError: a batch does not fit, there is none, or there are not as many labels as samples.
        BackendError: the runtime refuses a graph.
    """
    _check_inputs(graph_a, graph_b)
    pairs, unmatched = match_outputs(graph_a, graph_b)
    measured = [_Measured(a, b) for a, b in pairs]
    batches = 0
    labels = _Labels(options.labels)
    names_a, names_b = [a.name for a, _ in pairs], [b.name for _, b in pairs]
    with runner_factory(graph_a, outputs=names_a) as a, runner_factory(graph_b, outputs=names_b) as b:
        for batch in source:
            one, other = a.run(batch.feeds), b.run(batch.feeds)
            samples = next((array.shape[0] for array in batch.feeds.values() if array.ndim), 0)
            right = labels.take(samples)
            for pair in measured:
                pair.update(one[pair.a.name], other[pair.b.name], right)
            batches += 1
            if options.progress:
                options.progress("comparing outputs", batches, 0)
    if not batches:
        raise DataError("there is nothing to compare on: the data has no batches", hint="give at least one sample")
    labels.check_used()
    return Comparison(
        batches,
        tuple(pair.result() for pair in measured),
        unmatched,
        graph_size(graph_a, options.macs),
        graph_size(graph_b, options.macs),
        _timed(graph_a, graph_b, source, options),
        None if options.inner is None else find_divergence(graph_a, graph_b, source, runner_factory, options.inner),
    )


def match_outputs(graph_a: Graph, graph_b: Graph) -> tuple[list[tuple[Value, Value]], tuple[str, ...]]:
    """Pairs of outputs, in the order of `graph_a`, and the names of those that have no partner.

    Raises:
        GraphError: none has one.
    """
    by_name = {value.name: value for value in graph_b.outputs}
    names_a = {value.name for value in graph_a.outputs}
    others = iter([value for value in by_name.values() if value.name not in names_a])
    pairs, alone = [], []
    for value in dict.fromkeys(graph_a.outputs):
        partner = by_name[value.name] if value.name in by_name else next(others, None)
        if partner is None:
            alone.append(value.name)
        else:
            pairs.append((value, partner))
    if not pairs:
        raise GraphError(f"{graph_a.title} and {graph_b.title} have no outputs to compare", hint="give both one output")
    return pairs, (*alone, *(value.name for value in others))


def graph_size(graph: Graph, macs: Callable[[Graph], int | None] | None = None) -> GraphSize:
    """What a graph weighs.

    Parameters are the elements of all constants but int64, bool and strings, which are shapes, indices and masks.
    """
    from secateur.ir.onnx_write import detached

    model, tensors = detached(graph)
    total = len(model) + sum(tensor.nbytes for tensor in tensors.values())
    aside = (DataType.INT64, DataType.BOOL, DataType.STRING)
    parameters = sum(
        value.const.size
        for root in (graph, *graph.functions.values())
        for inner in root.graphs()
        for value in inner.constants()
        if value.const is not None and value.const.dtype not in aside
    )
    return GraphSize(total, parameters, macs(graph) if macs else None)


class _Measured:
    """One pair of outputs and the sums over its batches."""

    def __init__(self, a: Value, b: Value) -> None:
        self.a = a
        self.b = b
        self._difference = Difference()
        self._classes: ClassDifference | None = None
        self._type = ""

    def update(self, a: NDArray[Any], b: NDArray[Any], labels: NDArray[Any] | None) -> None:
        if a.shape != b.shape:
            raise GraphError(
                f"output {self.a.name!r} has shape {list(a.shape)} in the one and {list(b.shape)} in the other graph",
                hint="only outputs of one shape can be compared",
            )
        self._difference.update(a, b)
        if not self._type:
            self._type = DataType.of(a.dtype).short
            if a.ndim == 2 and a.shape[1] > 1 and all(DataType.of(array.dtype).is_float for array in (a, b)):
                self._classes = ClassDifference()
        if self._classes is not None:
            self._classes.update(a, b, labels if labels is not None and len(labels) == len(a) else None)

    def result(self) -> OutputComparison:
        found, classes = self._difference, self._classes
        accuracy = classes.accuracy if classes else None
        return OutputComparison(
            name=self.a.name,
            name_b=self.b.name,
            type=self._type,
            elements=found.elements,
            sqnr_db=found.sqnr_db,
            max_abs=found.max_abs,
            mean_abs=found.mean_abs,
            max_relative=found.max_relative,
            cosine=found.cosine,
            agreement=found.agreement,
            nonfinite_a=found.nonfinite_a,
            nonfinite_b=found.nonfinite_b,
            top1=classes.top1 if classes else None,
            top5=classes.top5 if classes else None,
            divergence=classes.divergence if classes else None,
            accuracy_a=accuracy[0] if accuracy else None,
            accuracy_b=accuracy[1] if accuracy else None,
        )


class _Labels:
    """Labels in the order of the data, taken as the batches come."""

    def __init__(self, labels: NDArray[Any] | None) -> None:
        if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
            raise DataError(
                f"labels are {labels.dtype}{list(labels.shape)}, expected one integer for each sample",
                hint="give the number of the right class of each sample",
            )
        self._labels = labels
        self._taken = 0

    def take(self, samples: int) -> NDArray[Any] | None:
        if self._labels is None:
            return None
        self._taken += samples
        return self._labels[self._taken - samples : self._taken]

    def check_used(self) -> None:
        if self._labels is not None and self._taken != len(self._labels):
            raise DataError(
                f"there are {len(self._labels)} labels for {self._taken} samples", hint="give one label for each sample"
            )


def _check_inputs(graph_a: Graph, graph_b: Graph) -> None:
    one, other = ({value.name for value in graph.inputs if value.const is None} for graph in (graph_a, graph_b))
    if one != other:
        raise GraphError(
            f"the graphs take different inputs: {', '.join(sorted(one))}; and {', '.join(sorted(other))}",
            hint="rename the inputs of one of them",
        )


def _timed(graph_a: Graph, graph_b: Graph, source: FeedSource, options: CompareOptions) -> Latency | None:
    if not options.repeats:
        return None
    return latency(graph_a, graph_b, next(iter(source)).feeds, options.repeats, threads=options.threads)


def _ratio(label: str, a: float, b: float, form: str) -> tuple[str, str, str, str]:
    return label, format(a, form), format(b, form), f"{b / a:.3f}" if a else ""


def _shown(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
