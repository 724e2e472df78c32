"""How far what a changed model answers is from what the dense one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from secateur.calib.capture import DEFAULTS, CaptureOptions, Part
from secateur.calib.finite import count_bad
from secateur.ir.errors import DataError, GraphError
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_uses_of
from secateur.ir.runner import Meaning, Runner, RunnerFactory
from secateur.ir.types import TensorType

_PASSED = frozenset({"Identity", "Cast", "Add", "Sub", "Mul", "Div", "Tanh"})
"""What may lie between the last layer and logits: a bias, a temperature, a soft cap."""


def meanings(known: Known) -> dict[str, Meaning]:
    """What the outputs of a graph that are made of real numbers mean, by name.

    Logits are what a linear layer makes along the last axis, a bias and a soft cap on top of it or not, and what
    LogSoftmax makes; probabilities what Softmax makes along the last axis: more than two in a row in each case. All
    else is numbers: hidden states, what a pooler squashes by a Tanh, images, boxes. A projection to an embedding looks
    like logits, and counts as such.
    """
    found: dict[str, Meaning] = {}
    for output in known.graph.outputs:
        kind = known.types.get(output, output.type)
        if isinstance(kind, TensorType) and kind.dtype.is_float:
            found[output.name] = _meaning(known, output)
    return found


def _meaning(known: Known, output: Value) -> Meaning:
    shape = known.shape(output)
    if shape is None or len(shape) < 2 or (isinstance(shape[-1], int) and shape[-1] <= 2):
        return "numbers"
    last = (-1, len(shape) - 1)
    maker = known.graph.producer(output)
    if maker is not None and maker.op_type == "Tanh":
        return "numbers"
    while maker is not None and maker.op_type in _PASSED and (before := _dynamic(known, maker)) is not None:
        maker = known.graph.producer(before)
    if maker is None:
        return "numbers"
    if maker.op_type in ("Softmax", "LogSoftmax") and maker.attribute("axis", -1) in last:
        return "probabilities" if maker.op_type == "Softmax" else "logits"
    # The table of a tied embedding is read behind a Transpose, a quantized one behind a DequantizeLinear.
    uses, rank = weight_uses_of(known, maker), known.rank(maker.output)
    is_linear = rank is not None and any(use.slabs == 1 and use.output_axis == rank - 1 for use in uses)
    return "logits" if is_linear else "numbers"


def _dynamic(known: Known, op: Op) -> Value | None:
    """The only input that is no constant."""
    found = [value for value in op.inputs if value is not None and known.constant(value) is None]
    return found[0] if len(found) == 1 else None


_AT_ONCE = 1 << 20
"""So many numbers are compared at once: the beliefs of a language model are large, and in float64 a few times over."""


@dataclass
class OutputError:
    """What has been seen so far of one output: of numbers `sum (a - b)² / sum a²`, of beliefs the mean divergence."""

    meaning: Meaning
    error: float = 0.0
    scale: float = 0.0

    @property
    def value(self) -> float:
        """The error, from 0; infinite where something that should be zero is not."""
        return self.error / self.scale if self.scale else (np.inf if self.error else 0.0)

    def update(self, dense: NDArray[Any], found: NDArray[Any], weight: float) -> None:
        """Adds one batch."""
        if self.meaning == "numbers":
            for one, other in _slices(dense.reshape(-1, 1), found.reshape(-1, 1)):
                self.error += weight * float(np.sum((one - other) ** 2))
                self.scale += weight * float(np.sum(one**2))
            return
        width = dense.shape[-1]
        for one, other in _slices(dense.reshape(-1, width), found.reshape(-1, width)):
            self.error += weight * self._divergence(one, other)
        self.scale += weight * (dense.size // width)

    def _divergence(self, wanted: NDArray[np.float64], given: NDArray[np.float64]) -> float:
        """The sum of the divergences of rows."""
        if self.meaning == "probabilities":
            tiny = np.finfo(np.float32).tiny
            wanted, given = np.log(np.maximum(wanted, tiny)), np.log(np.maximum(given, tiny))
        beliefs, others = log_softmax(wanted, axis=-1), log_softmax(given, axis=-1)
        return float(np.sum(np.exp(beliefs) * (beliefs - others)))


def _slices(dense: NDArray[Any], found: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rows of both as float64, so many at once that what is made of them takes little memory."""
    step = max(1, _AT_ONCE // max(1, dense.shape[1]))
    for start in range(0, len(dense), step):
        yield dense[start : start + step].astype(np.float64), found[start : start + step].astype(np.float64)


class Answers:
    """What the dense model answers to some data; kept as far as memory allows, computed anew beyond.

    Outputs are compared as `meanings` says: numbers by the relative squared error, logits and probabilities by the
    Kullback-Leibler divergence of beliefs, dense against changed, in nats, the mean over positions. Of several outputs
    the mean counts.
    """

    def __init__(
        self,
        dense: Part,
        outputs: Mapping[str, Meaning],
        runner_factory: RunnerFactory,
        options: CaptureOptions = DEFAULTS,
    ) -> None:
        """Runs the dense model over the data.

        Args:
            dense: the model, whole, and the data.
            outputs: those that count, and what they mean.
            runner_factory: what runs it, and those that it is compared with.
            options: how much memory answers may take.

        Raises:
            DataError: a batch does not fit, or an answer is NaN or infinite.
            GraphError: no output is made of real numbers.
        """
        self.meanings = dict(outputs)
        if not self.meanings:
            raise GraphError(f"{dense.graph.title} has no output of real numbers", hint="choose by another criterion")
        self._dense = dense
        self._factory = runner_factory
        self._kept: list[Mapping[str, NDArray[Any]]] = []
        size = 0
        with self._runner(dense.graph) as runner:
            for number, batch in dense.walk():
                answer = runner.run(batch.feeds)
                for name, array in answer.items():
                    if bad := count_bad(array):
                        raise DataError(
                            f"output {name!r} has {bad} of {array.size} elements that are NaN or infinite in batch "
                            f"{number}",
                            hint="find out what the model makes of this batch",
                        )
                size += sum(array.nbytes for array in answer.values())
                if options.memory_limit is not None and size > options.memory_limit:
                    break
                self._kept.append(answer)

    def _runner(self, graph: Graph) -> AbstractContextManager[Runner]:
        return self._factory(graph, outputs=list(self.meanings))

    def error(self, changed: Graph) -> float:
        """How far a model with the same inputs and outputs is off; infinite where it gives NaN or infinity."""
        found = {name: OutputError(meaning) for name, meaning in self.meanings.items()}
        with ExitStack() as stack:
            runner = stack.enter_context(self._runner(changed))
            for (_, batch), wanted in zip(self._dense.walk(), self._wanted(stack), strict=True):
                given = runner.run(batch.feeds)
                if any(count_bad(array) for array in given.values()):
                    return np.inf
                for name, one in found.items():
                    one.update(wanted[name], given[name], batch.weight)
        return float(np.mean([one.value for one in found.values()]))

    def _wanted(self, stack: ExitStack) -> Iterator[Mapping[str, NDArray[Any]]]:
        yield from self._kept
        dense: Runner | None = None
        for at, (_, batch) in enumerate(self._dense.walk()):
            if at >= len(self._kept):
                dense = dense or stack.enter_context(self._runner(self._dense.graph))
                yield dense.run(batch.feeds)
