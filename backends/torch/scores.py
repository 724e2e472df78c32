"""Scores: how the log-likelihood of a model's own answers depends on the values inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from secateur.backends.feeds import check, matched
from secateur.backends.torch.dtypes import from_array, to_array
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.opened import Opened
from secateur.backends.torch.program import Program, compile_torch
from secateur.ir import Graph
from secateur.ir.errors import BackendError, GraphError
from secateur.ir.runner import Meaning

if TYPE_CHECKING:
    from torch import Tensor


class TorchDifferentiator(Opened):
    """Scores at values of a graph: `with TorchDifferentiator(graph, at=names) as scores`.

    Answers are drawn from what the model itself believes, so that the mean of the squared scores is the Fisher
    information of its outputs, the curvature of the divergence between it and any model near it (Martens 2020, "New
    insights and perspectives on the natural gradient method", section 5); the labels of data, which give the empirical
    Fisher, are neither needed nor wanted.
    """

    def __init__(self, graph: Graph, *, at: Sequence[str], outputs: Mapping[str, Meaning], device: str = "cpu") -> None:
        """Looks the values up; `with` prepares it.

        Args:
            graph: a whole model; it is not changed.
            at: names of values inside.
            outputs: those that are answers, and what they mean: of logits and probabilities one class is drawn for
                each row of the last axis, numbers have unit variance.
            device: "cpu", "cuda", "cuda:1".

        Raises:
            GraphError: a name is unknown, or is no output.
        """
        if strangers := sorted(set(outputs) - {value.name for value in graph.outputs}):
            raise GraphError(f"{graph.title} has no output {', '.join(strangers)}", hint="`secateur print` shows them")
        if unknown := [name for name in at if graph.get(name) is None]:
            raise GraphError(f"{graph.title} has no value {', '.join(unknown)}", hint="`secateur print` shows them")
        self._graph = graph
        self._at = tuple(dict.fromkeys(at))
        self._outputs = dict(outputs)
        self._device = device

    def _compile(self) -> Program:
        return compile_torch(self._graph, device=self._device)

    def run(self, feeds: Mapping[str, NDArray[Any]], seed: int) -> dict[str, NDArray[Any]]:
        """Named inputs to the scores at the values, each shaped like its value; zeros where no output depends on it.

        Args:
            feeds: one array for each input, of exactly its dtype.
            seed: of the answers that are drawn.

        Raises:
            DataError: an array is missing, unknown, or of another dtype or shape than its input.
            BackendError: an op fails, or no answer depends on the values.
        """
        program = self._opened("differentiator")
        for array, value in matched(feeds, self._graph.inputs):
            check(array, value)
        found: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def tap(tensor: Tensor) -> Tensor:
                found[name] = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
                return found[name]

            return tap

        with torch.enable_grad():
            made = program(
                {name: from_array(array) for name, array in feeds.items()}, taps={n: watch(n) for n in self._at}
            )
            surprise = self._surprise(made, torch.Generator().manual_seed(seed))
            watched = list(found.values())
            scores = torch.autograd.grad(surprise, watched, allow_unused=True)
        return {
            name: to_array(torch.zeros_like(value) if score is None else score, None)
            for name, value, score in zip(found, watched, scores, strict=True)
        }

    def _surprise(self, made: Mapping[str, Tensor], generator: Any) -> Tensor:
        """-log p of answers drawn from the model: a scalar that depends on what was watched."""
        total: Any = None
        for name, meaning in self._outputs.items():
            output = made[name]
            if not output.requires_grad:
                continue
            term = _numbers(output, generator) if meaning == "numbers" else _classes(output, meaning, generator)
            total = term if total is None else total + term
        if total is None:
            raise BackendError(
                f"no answer of {self._graph.title} depends on {', '.join(self._at)} by real numbers",
                hint="name values on the way from the inputs to an output",
            )
        return total


def _classes(output: Tensor, meaning: Meaning, generator: Any) -> Tensor:
    """Cross entropy against classes drawn from what the last axis says, by logits or by probabilities."""
    rows = output.reshape(-1, output.shape[-1]).float()
    if meaning == "probabilities":
        rows = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()
    beliefs = torch.softmax(rows.detach(), -1).cpu()
    drawn = torch.multinomial(beliefs, 1, generator=generator)[:, 0].to(rows.device)
    return torch.nn.functional.cross_entropy(rows, drawn, reduction="sum")


def _numbers(output: Tensor, generator: Any) -> Tensor:
    """Half the squared distance to numbers drawn from a normal distribution of unit variance about the output."""
    noise = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device, output.dtype)
    return 0.5 * ((output - (output.detach() + noise)) ** 2).sum()
