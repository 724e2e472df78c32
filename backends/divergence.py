"""Where two graphs part: every inner value that both have by name, and the first of them whose error jumps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.backends.difference import Difference
from secateur.backends.protocols import FeedSource
from secateur.ir import Graph, TensorType, Value
from secateur.ir.extract import extract_shapes, grouped
from secateur.ir.runner import RunnerFactory

_NO_TENSORS = frozenset({"Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"})
_LISTS = frozenset({"SequenceMap", "SplitToSequence"})


@dataclass(frozen=True)
class DivergenceOptions:
    """When an error counts as a jump, and how much is fetched at a time.

    An error is sqrt(sum (a - b)^2 / sum a^2) over all batches. It jumps at a value where it exceeds `threshold`, and
    `factor` times the largest error among what the value's op reads (there, or at the nearest values before that are
    compared; inputs and constants have none).
    """

    threshold: float = 0.1
    factor: float = 3.0
    memory_limit: int = 1 << 30
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True)
class InnerError:
    """The error of one value, and the largest one among what its op reads."""

    value: str
    op: str
    before: float
    after: float

    @property
    def sqnr_db(self) -> float:
        """The error in decibels: -20 log10; infinite where there is none."""
        return -20 * math.log10(self.after) if self.after > 0 else math.inf


@dataclass(frozen=True)
class Divergence:
    """Every common value in topological order, the first at which the error jumps, and what could not be compared."""

    values: tuple[InnerError, ...]
    first_jump: InnerError | None
    incomparable: tuple[str, ...]
    """Values that both have by name, but of another shape: what pruning changed."""


def find_divergence(
    graph_a: Graph,
    graph_b: Graph,
    source: FeedSource,
    runner_factory: RunnerFactory,
    options: DivergenceOptions = DivergenceOptions(),
) -> Divergence:
    """Runs both graphs on all batches, fetching the values that both make by the same name a group at a time.

    Args:
        graph_a: the reference.
        graph_b: the other, with the same inputs.
        source: what is fed to both.
        runner_factory: what runs them; one that leaves the graph as it is (`optimize=False`) shows it as it is.
        options: what counts as a jump, and memory.

    Raises:
        BackendError: the runtime refuses a graph.
        DataError: a batch does not fit.
    """
    names = [value.name for value in _made(graph_a) if _is_made(graph_b, value.name)]
    sizes, incomparable = _sizes(graph_a, graph_b, names, source, runner_factory)
    errors: dict[str, float] = {}
    groups = grouped(sizes, options.memory_limit)
    done = batches = 0
    for index, group in enumerate(groups):
        found = {name: Difference() for name in group}
        with runner_factory(graph_a, outputs=group) as a, runner_factory(graph_b, outputs=group) as b:
            for batch in source:
                one, other = a.run(batch.feeds), b.run(batch.feeds)
                for name, difference in found.items():
                    difference.update(one[name], other[name])
                done += 1
                if options.progress:
                    options.progress("comparing inner values", done, batches * len(groups))
        batches = done // (index + 1)
        errors.update((name, difference.relative) for name, difference in found.items())
    values = _in_order(graph_a, errors)
    jump = next((v for v in values if v.after > options.threshold and v.after > options.factor * v.before), None)
    return Divergence(tuple(values), jump, incomparable)


def _made(graph: Graph) -> list[Value]:
    """What the ops make that is, or may be, a tensor, in topological order."""
    return [
        value
        for op in graph.ops()
        if op.op_type not in _NO_TENSORS | _LISTS
        for value in op.outputs
        if value is not None and (value.type is None or isinstance(value.type, TensorType))
    ]


def _is_made(graph: Graph, name: str) -> bool:
    value = graph.get(name)
    return value is not None and graph.producer(value) is not None


def _sizes(
    graph_a: Graph, graph_b: Graph, names: Sequence[str], source: FeedSource, runner_factory: RunnerFactory
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bytes of each value in both graphs together, for the first batch; and the names whose shapes differ."""
    if not names:
        return {}, ()
    batch = next(iter(source))
    shapes = []
    for graph in (graph_a, graph_b):
        part = extract_shapes(graph, None, names)
        with runner_factory(part) as runner:
            fetched = runner.run(batch.feeds)
        shapes.append([tuple(fetched[value.name].tolist()) for value in part.outputs])
    sizes: dict[str, int] = {}
    incomparable = []
    for name, shape_a, shape_b in zip(names, *shapes, strict=True):
        if shape_a == shape_b:
            sizes[name] = int(np.prod(shape_a, dtype=np.int64)) * (_itemsize(graph_a[name]) + _itemsize(graph_b[name]))
        else:
            incomparable.append(name)
    return sizes, tuple(incomparable)


def _itemsize(value: Value) -> int:
    bits = value.type.dtype.bits if isinstance(value.type, TensorType) else 32
    return max(bits, 8) // 8


def _in_order(graph: Graph, errors: Mapping[str, float]) -> list[InnerError]:
    """The errors in topological order, each beside that of what its op reads."""
    carried: dict[Value, float] = {}
    found = []
    for op in graph.ops():
        before = max((carried.get(node, 0.0) for node in graph.nx.pred[op] if isinstance(node, Value)), default=0.0)
        for value in op.outputs:
            if value is None:
                continue
            carried[value] = errors.get(value.name, before)
            if value.name in errors:
                found.append(InnerError(value.name, op.title, before, carried[value]))
    return found
