"""Axes of choice: names, each with the function that it stands for, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from secateur.passes.registry import suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Choices(Generic[T]):
    """The answers that there are to one question; ours, and those of installed packages.

    Attributes:
        axis: what is chosen, as options call it; packages add to the entry point group `secateur.<axis>`.
        table: name -> `module:function`.
    """

    axis: str
    table: Mapping[str, str]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.table, *(point.name for point in entry_points(group=f"secateur.{self.axis}"))})

    def check(self, name: str) -> None:
        """Raises ValueError for a name that there is not, with the near ones."""
        if name not in self.table and name not in self.names():
            raise ValueError(f"there is no {self.axis} {name!r}: {suggest(name, self.names())}")

    def __getitem__(self, name: str) -> T:
        self.check(name)
        points = entry_points(group=f"secateur.{self.axis}")
        target = self.table.get(name) or next(point.value for point in points if point.name == name)
        module, _, attribute = target.partition(":")
        return cast(T, getattr(import_module(module), attribute))
