"""Scores: how the log-likelihood of a model's own answers depends on the values inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy.typing import NDArray

from secateur.backends.feeds import check, matched
from secateur.backends.torch.dtypes import from_array, to_array
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.opened import Opened
from secateur.backends.torch.program import Program, compile_torch
from secateur.ir import Graph
from secateur.ir.errors import BackendError, GraphError

if TYPE_CHECKING:
    from torch import Tensor

Answer: TypeAlias = Literal["class", "number"]
"""What an output means: logits of one class for each row of its last axis, or numbers of unit variance."""


class TorchDifferentiator(Opened):
    """Scores at values of a graph: `with TorchDifferentiator(graph, at=names) as scores`.

    Answers are drawn from what the model itself believes, so that the mean of the squared scores is the Fisher
    information of its outputs, the curvature of the divergence between it and any model near it (Martens 2020, "New
    insights and perspectives on the natural gradient method", section 5); the labels of data, which give the empirical
    Fisher, are neither needed nor wanted.
    """

    def __init__(
        self, graph: Graph, *, at: Sequence[str], answers: Mapping[str, Answer] | None = None, device: str = "cpu"
    ) -> None:
        """Looks the values up; `with` prepares it.

        Args:
            graph: a whole model; it is not changed.
            at: names of values inside.
            answers: which outputs count and what they mean; None takes all outputs of real numbers: logits where
                there are more than two of them in a row, numbers otherwise.
            device: "cpu", "cuda", "cuda:1".

        Raises:
            GraphError: a name is unknown.
        """
        if unknown := [name for name in at if graph.get(name) is None]:
            raise GraphError(f"{graph.title} has no value {', '.join(unknown)}", hint="`secateur print` shows them")
        self._graph = graph
        self._at = tuple(dict.fromkeys(at))
        self._answers = answers
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
            BackendError: an op fails, or no output is made of real numbers.
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
        for name, output in made.items():
            meaning = self._meaning(name, output)
            if meaning is None or not output.requires_grad:
                continue
            term = _classes(output, generator) if meaning == "class" else _numbers(output, generator)
            total = term if total is None else total + term
        if total is None:
            raise BackendError(
                f"no output of {self._graph.title} depends on {', '.join(self._at)} by real numbers",
                hint="name values on the way from the inputs to an output",
            )
        return total

    def _meaning(self, name: str, output: Tensor) -> Answer | None:
        if self._answers is not None:
            return self._answers.get(name)
        if not output.is_floating_point():
            return None
        return "class" if output.dim() >= 2 and output.shape[-1] > 2 else "number"


def _classes(logits: Tensor, generator: Any) -> Tensor:
    """Cross entropy against classes drawn from the softmax over the last axis."""
    rows = logits.reshape(-1, logits.shape[-1]).float()
    beliefs = torch.softmax(rows.detach(), -1).cpu()
    drawn = torch.multinomial(beliefs, 1, generator=generator)[:, 0].to(rows.device)
    return torch.nn.functional.cross_entropy(rows, drawn, reduction="sum")


def _numbers(output: Tensor, generator: Any) -> Tensor:
    """Half the squared distance to numbers drawn from a normal distribution of unit variance about the output."""
    noise = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device, output.dtype)
    return 0.5 * ((output - (output.detach() + noise)) ** 2).sum()
