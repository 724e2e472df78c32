"""What comparing needs of a runtime and of data; anything of this shape will do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from secateur.ir import Graph

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by the name of an input."""


class Runner(Protocol):
    """A model that is ready to run."""

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Named inputs to named outputs."""
        ...


class RunnerFactory(Protocol):
    """Makes a runner for a graph or a part of it: `OnnxRuntimeRunner`, or anything that is called like it."""

    def __call__(
        self, graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> AbstractContextManager[Runner]:
        """The part of `graph` from the values `inputs` to the values `outputs`; None for its own."""
        ...


class FeedBatch(Protocol):
    """One run's worth of data."""

    @property
    def feeds(self) -> Feeds:
        """Arrays by the name of an input, batch axis first."""
        ...


class FeedSource(Protocol):
    """Data that can be walked any number of times, with the same batches in the same order."""

    def __iter__(self) -> Iterator[FeedBatch]:
        """Starts a new walk."""
        ...
