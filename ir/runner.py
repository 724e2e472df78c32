"""What calibration, passes and comparing need of a runtime: they are handed one, and know no other name for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from secateur.ir.graph import Graph

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by the name of an input."""


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

    def __call__(self, graph: Graph, *, at: Sequence[str]) -> AbstractContextManager[Differentiator]:
        """Prepares a whole model.

        Args:
            graph: it is not changed, and must not be while the differentiator lives.
            at: names of values inside.
        """
        ...
