"""What a pass may change (facets), and what its result owes to the graph before it (effect)."""

from __future__ import annotations

from enum import Enum, Flag, auto


class Facet(Flag):
    """One aspect of a graph. A pass lists those that it may change, a fact those that it reads.

    All but TOPOLOGY speak of what is there before and after: an op that goes takes its attributes along without
    "changing attributes".
    """

    TOPOLOGY = auto()
    """Which ops and values there are, of what type, and what reads what; the interface."""
    SHAPE = auto()
    """The axes of values, as far as the graph states them."""
    DTYPE = auto()
    """The element types of values, as far as the graph states them."""
    WEIGHTS = auto()
    """The numbers in constants."""
    ATTRIBUTES = auto()
    """Attributes and names of ops, names of values, versions and metadata."""
    SCHEME = auto()
    """The number formats that tensors are kept in: ops that quantize, their scales and zero points."""

    def __str__(self) -> str:
        return ", ".join((facet.name or "").lower() for facet in self) or "nothing"


NOTHING = Facet(0)
EVERYTHING = ~NOTHING


class Effect(Enum):
    """How the outputs of the graph after a pass compare with those before it."""

    EXACT = "exact"
    """Bit for bit the same."""
    ROUNDED = "rounded"
    """The same but for rounding, within the tolerance that the pass states."""
    LOSSY = "lossy"
    """Different: the pass reports the error of every layer that it touched."""
