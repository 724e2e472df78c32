"""What calibration, passes and comparing need of a runtime: they are handed one, and know no other name for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from secateur.ir.graph import Graph

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by the name of an input."""


Meaning: TypeAlias = Literal["logits", "probabilities", "numbers"]
"""What an output is, and so how two of them are compared: beliefs by their divergence, numbers by squared error."""

Stopwatch: TypeAlias = Callable[[Graph, Feeds], float]
"""Seconds that a graph takes for these feeds."""


class Runner(Protocol):
    """A model that is ready to run."""

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Named inputs to the named outputs that the runner was made for."""
        ...


class RunnerFactory(Protocol):
    """Makes a runner for a graph or a part of it."""

    def __call__(
        self, graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> AbstractContextManager[Runner]:
        """Prepares the part of `graph` that leads from the values `inputs` to the values `outputs`.

        Args:
            graph: a whole model; it is not changed, and must not be while the runner lives.
            inputs: names of values to be fed; None for the graph's own inputs.
            outputs: names of any values inside, to be fetched; None for the graph's own outputs.
        """
        ...


class Differentiator(Protocol):
    """A model that is ready to tell how much its answers depend on values inside."""

    def run(self, feeds: Feeds, seed: int) -> dict[str, NDArray[Any]]:
        """For named inputs a score at each of the values that it was made for, shaped like it.

        A score is the gradient of -log p(y) for answers y drawn from the model itself: the mean of its square is the
        Fisher information, with no label needed.
        """
        ...


class DifferentiatorFactory(Protocol):
    """Makes a differentiator for a graph."""

    def __call__(
        self, graph: Graph, *, at: Sequence[str], outputs: Mapping[str, Meaning]
    ) -> AbstractContextManager[Differentiator]:
        """Prepares a whole model.

        Args:
            graph: it is not changed, and must not be while the differentiator lives.
            at: names of values inside.
            outputs: those that are its answers, and what they mean.
        """
        ...


@dataclass(frozen=True)
class Example:
    """A batch: what goes in, and what should come out.

    Attributes:
        feeds: by name.
        target: samples along axis 0.
        weight: what each sample counts.
        per: what errors are divided by before they are squared; broadcasts to the target. None for 1.
    """

    feeds: Feeds
    target: NDArray[Any]
    weight: float = 1.0
    per: NDArray[Any] | None = None


@dataclass(frozen=True)
class Descent:
    """How weights are fitted by Adam (Kingma and Ba 2015) with a rate that falls to nought along a cosine.

    Where nothing is better at a check than it was before the first step, the rate was too high: it begins again with a
    lower one, for the steps that are left.

    Attributes:
        steps: how many are taken.
        rate: of the first step, relative to the root mean square of each weight's elements that are not zero.
        samples: for each step at least; batches are taken whole.
        checks: how often on the way, at equal distances, the held-out loss is looked at.
        seed: of the order of batches.
    """

    steps: int
    rate: float
    samples: int
    checks: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """New weights by name, none where no step helped, and the held-out loss (mean squared error) before and after."""

    weights: Mapping[str, NDArray[Any]]
    before: float
    after: float


@dataclass(frozen=True)
class Slope:
    """How wrong a part of a model is with certain weights: its squared error, and the gradient at each, by name."""

    error: float
    gradients: Mapping[str, NDArray[Any]]


class Tuner(Protocol):
    """A part of a model whose weights are ready to be fitted."""

    def fit(self, examples: Sequence[Example], held_out: Sequence[Example], how: Descent) -> Tuned:
        """The weights, of all that were looked at, with the smallest mean squared error on what was held out.

        Args:
            examples: what is fitted on.
            held_out: what judges; the examples themselves where this is empty.
            how: steps and rate.
        """
        ...

    def slope(self, weights: Mapping[str, NDArray[Any]], example: Example) -> Slope:
        """The squared error of one example with other weights, and its gradient: for what makes weights of its own.

        Whoever writes weights as a function of something (masks of beliefs, codes of scales) goes on from here by the
        chain rule, and needs to know nothing of the runtime.

        Args:
            weights: of those that the tuner was made for some, by name, shaped as they are.
            example: what goes in and should come out; its weight counts.
        """
        ...


class TunerFactory(Protocol):
    """Makes a tuner for a part of a graph."""

    def __call__(
        self, graph: Graph, *, inputs: Sequence[str], output: str, weights: Mapping[str, NDArray[Any] | None]
    ) -> AbstractContextManager[Tuner]:
        """Prepares the part of `graph` that leads from the values `inputs` to the value `output`.

        Args:
            graph: a whole model; it is not changed, and must not be while the tuner lives.
            inputs: names of values to be fed.
            output: name of the value that is to be as the targets are.
            weights: the constants to fit, by name: True for each element that may change, or None for all.
        """
        ...
