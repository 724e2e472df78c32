"""What a model answers to some samples of the calibration data, for changed ones to be held against."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from secateur.calib.batches import Batch
from secateur.calib.capture import Part, nbytes
from secateur.calib.output_error import Answers
from secateur.calib.spread import Spread
from secateur.ir.graph import Graph
from secateur.ir.runner import Meaning
from secateur.ir.types import TensorType
from secateur.passes.context import Context

SAMPLES = 128
"""So many samples answer, at the most."""

NUMBERS = 1 << 26
"""So many numbers are answered, at the most, but for two samples at the least: beliefs of language models are large."""


def answers_of(graph: Graph, outputs: Mapping[str, Meaning], samples: int, context: Context, who: str) -> Answers:
    """What a model answers to some samples of the data.

    Raises:
        BackendError: there is no runtime.
        DataError: there is no data, or none that fits.
        GraphError: there are no outputs.
    """
    return Answers(some_samples(graph, samples, context, who), outputs, context.needed_runner(who))


def some_samples(graph: Graph, samples: int, context: Context, who: str) -> Part:
    """A model and so many samples, spread over the data; whole batches where it takes no others.

    Raises:
        DataError: there is no data.
    """
    kinds = [value.type for value in graph.inputs if value.const is None]
    is_fixed = any(isinstance(kind, TensorType) and kind.shape and isinstance(kind.shape[0], int) for kind in kinds)
    return Part(graph, Spread(context.needed_source(who), samples, whole=is_fixed))


def enough(graph: Graph, outputs: Collection[str], context: Context, who: str) -> int:
    """How many samples a trial needs: SAMPLES, or fewer where each is answered by many numbers.

    Raises:
        BackendError: there is no runtime.
        DataError: there is no data, or none that fits.
    """
    part = some_samples(graph, 1, context, who)
    _, batch = next(part.walk())
    numbers = _told(graph, outputs, batch)
    if numbers is None:
        numbers = sum(nbytes(part, list(outputs), context.needed_runner(who)).values()) // 4
    each = max(1, numbers // (batch.samples or 1))
    return min(SAMPLES, max(2, NUMBERS // each))


def _told(graph: Graph, outputs: Collection[str], batch: Batch) -> int | None:
    """How many numbers answer a batch, by the names that the graph has for sizes; None where it does not say."""
    sizes: dict[object, int] = {}
    for value in graph.inputs:
        kind, array = value.type, batch.feeds.get(value.name)
        if array is not None and isinstance(kind, TensorType):
            sizes.update({name: size for name, size in zip(kind.shape or (), array.shape, strict=False) if name})
    total = 0
    for name in outputs:
        kind = graph[name].type
        if not isinstance(kind, TensorType) or kind.shape is None:
            return None
        known = [size if isinstance(size, int) else sizes.get(size) for size in kind.shape]
        if None in known:
            return None
        total += math.prod(size for size in known if size is not None)
    return total
