"""What a pass is."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from secateur.ir import Graph
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a whole graph: a frozen dataclass whose fields are its options.

    The graph is valid before and valid after; in between, anything goes. A pass keeps no state between runs. Options
    are typed fields with defaults (bool, int, float, str, an enum, a Literal, tuples of those, or None beside any of
    them), so that the text of a pass, `prune{ratio=0.5}`, parses and prints. `__post_init__` raises ValueError for
    values that make no sense.
    """

    name: ClassVar[str]
    """In kebab case; how pipelines call it."""
    changes: ClassVar[Facet]
    """All that it may change. The manager checks it, and forgets the facts that read it."""
    effect: ClassVar[Effect]
    tolerance: ClassVar[float] = 0.0
    """For ROUNDED: the largest error of an output, divided by the largest magnitude in that output."""
    replayable: ClassVar[bool] = True
    """Whether a manifest says all that it does to a graph, so that it can be done again to another checkpoint."""
    recorded: ClassVar[bool] = False
    """Whether replaying takes what it did from the manifest instead of running it again, as with all that is lossy."""

    joint: ClassVar[bool] = False
    """Whether it fits layers together, so that what each gives by itself is no longer what it gave before."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for wanted in ("name", "changes", "effect"):
            if not hasattr(cls, wanted):
                raise TypeError(f"pass {cls.__name__} does not say its {wanted}")
        if not _KEBAB.fullmatch(cls.name):
            raise TypeError(f"pass {cls.__name__}: the name {cls.name!r} is not kebab case")
        if cls.effect is Effect.LOSSY:
            cls.recorded = True
        if (cls.effect is Effect.ROUNDED) != (cls.tolerance > 0):
            raise TypeError(f"pass {cls.__name__}: a tolerance belongs to a rounded effect, and to no other")

    @property
    def retypes(self) -> bool:
        """Whether it may give the inputs and outputs of the model other element types."""
        return False

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> int:
        """Rewrites `graph` in place and returns the number of rewrites; 0 means that nothing was touched.

        Raises:
            RefusedError: what was asked for cannot be done correctly; the manager puts the graph back as it was.
        """

    def __str__(self) -> str:
        from secateur.passes.text import print_pass

        return print_pass(self)
