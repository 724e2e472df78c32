"""Developer switches, read from the environment once a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from secateur.ir import Graph, Op
from secateur.ir.errors import DataError

_SMALL = 5_000


class Check(IntEnum):
    """How much the manager checks of every pass; each level includes those before it."""

    VERIFY = 0
    """The graph is well formed, the interface is the same."""
    HONEST = 1
    """The pass changed only what it declares, and its count is true."""
    FULL = 2
    """No remembered fact is stale, and the outputs before and after are compared on data, where there is a runner."""


@dataclass(frozen=True)
class Settings:
    """How carefully passes are run, and where their traces go."""

    check: Check | None = None
    """None: HONEST for graphs below 5,000 ops, VERIFY for larger ones."""
    dump: Path | None = None
    """A folder for the text form after each pass."""
    crashes: Path | None = None
    """A folder for reproducers; None is the system's folder for temporary files."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """`SECATEUR_CHECK=0|1|2`, `SECATEUR_DUMP=folder`, `SECATEUR_CRASHES=folder`.

        Raises:
            DataError: SECATEUR_CHECK is none of these.
        """
        said = os.environ if environment is None else environment
        level = said.get("SECATEUR_CHECK", "")
        if level not in ("", "0", "1", "2"):
            raise DataError(f"SECATEUR_CHECK is {level!r}, expected 0, 1 or 2", hint="unset it for the default")
        dump, crashes = said.get("SECATEUR_DUMP"), said.get("SECATEUR_CRASHES")
        return cls(
            Check(int(level)) if level else None, Path(dump) if dump else None, Path(crashes) if crashes else None
        )

    def level(self, graph: Graph) -> Check:
        """How much to check on this graph."""
        if self.check is not None:
            return self.check
        ops = sum(isinstance(node, Op) for node in graph.nx)
        return Check.HONEST if ops < _SMALL else Check.VERIFY
