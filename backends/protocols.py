"""What comparing needs of data; anything of this shape will do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from secateur.ir.runner import Feeds


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
