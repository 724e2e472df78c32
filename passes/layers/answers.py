"""What a model answers to some samples of the calibration data, for changed ones to be held against."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.calib.capture import Part
from secateur.calib.output_error import Answers
from secateur.calib.spread import Spread
from secateur.ir.graph import Graph
from secateur.ir.runner import Meaning
from secateur.ir.types import TensorType
from secateur.passes.context import Context


def answers_of(graph: Graph, outputs: Mapping[str, Meaning], samples: int, context: Context, who: str) -> Answers:
    """What a model answers to some samples of the data.

    Raises:
        BackendError: there is no runtime.
        DataError: there is no data, or none that fits.
        GraphError: there are no outputs.
    """
    kinds = [value.type for value in graph.inputs if value.const is None]
    is_fixed = any(isinstance(kind, TensorType) and kind.shape and isinstance(kind.shape[0], int) for kind in kinds)
    some = Spread(context.needed_source(who), samples, whole=is_fixed)
    return Answers(Part(graph, some), outputs, context.needed_runner(who))
