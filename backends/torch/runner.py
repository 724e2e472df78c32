"""Runs a graph, or any part of it, with torch, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from secateur.backends.feeds import check, matched
from secateur.backends.torch.dtypes import from_array, to_array
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.opened import Opened
from secateur.backends.torch.program import Program, compile_torch
from secateur.ir import DataType, Graph
from secateur.ir.errors import BackendError
from secateur.ir.extract import extract, forget_sizes


class TorchRunner(Opened):
    """A graph, or the part of it from `inputs` to `outputs`, ready to run: `with TorchRunner(graph) as runner`.

    It takes and gives what `OnnxRuntimeRunner` does, so whatever is handed one can be handed the other.
    `functools.partial(TorchRunner, device="cuda")` makes runners that compute on a GPU.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> None:
        """Cuts the part out of the graph; `with` prepares it.

        Args:
            graph: a whole model; it is not changed.
            inputs: names of values to be fed; None for the graph's own inputs.
            outputs: names of any values, to be fetched; None for the graph's own outputs.
            device: "cpu", "cuda", "cuda:1".

        Raises:
            GraphError: a name is unknown, or the inputs do not suffice for the outputs.
        """
        names = [value.name for value in graph.outputs] if outputs is None else list(outputs)
        self._part = extract(graph, inputs, names)
        forget_sizes(self._part, graph)
        self._device = device

    @property
    def input_names(self) -> tuple[str, ...]:
        """What is to be fed; inputs with a default may be left out."""
        return tuple(value.name for value in self._part.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What is fetched, in this order."""
        return tuple(value.name for value in self._part.outputs)

    def _compile(self) -> Program:
        return compile_torch(self._part, device=self._device)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs to named outputs.

        Args:
            feeds: one array for each input, of exactly its dtype (`secateur.calib.checks` casts what may be cast).

        Raises:
            DataError: an array is missing, unknown, or of another dtype or shape than its input.
            BackendError: an op fails, or an output is no tensor.
        """
        program = self._opened("runner")
        for array, value in matched(feeds, self._part.inputs):
            check(array, value)
        with torch.inference_mode():
            made = program({name: _fed(array) for name, array in feeds.items()})
            return {name: _fetched(tensor, name, program.kind(name)) for name, tensor in made.items()}


def _fed(given: Any) -> Any:
    """A tensor, or a list of them for a sequence; None for an optional that is empty."""
    if isinstance(given, list):
        return [_fed(one) for one in given]
    return None if given is None else from_array(given)


def _fetched(made: Any, name: str, kind: DataType | None) -> Any:
    if isinstance(made, list):
        return [_fetched(one, name, kind) for one in made]
    if made is None:
        raise BackendError(f"{name!r} is an optional that holds nothing", hint="fetch what it is computed from")
    return to_array(made, kind)
