"""Axes of choice: names, each with the function that it stands for, loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from secateur.passes.registry import suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Choices(Generic[T]):
    """The answers that there are to one question; ours, and those of installed packages.

    Attributes:
        axis: what is chosen, as options call it; packages add to the entry point group `secateur.<axis>`.
        table: name -> `module:function`.
        written: prefix -> `module:function`, which makes the answer of what is written behind the prefix.
    """

    axis: str
    table: Mapping[str, str]
    written: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.table, *(point.name for point in entry_points(group=f"secateur.{self.axis}"))})

    def check(self, name: str) -> None:
        """Raises ValueError for a name that there is not, with the near ones, or for nonsense behind a prefix."""
        if self._written(name) is None and name not in self.table and name not in self.names():
            raise ValueError(f"there is no {self.axis} {name!r}: {suggest(name, self.names())}")

    def __getitem__(self, name: str) -> T:
        if (answer := self._written(name)) is not None:
            return answer
        target = self.table.get(name)
        if target is None:  # looking through the installed packages takes a while
            self.check(name)
            points = entry_points(group=f"secateur.{self.axis}")
            target = next(point.value for point in points if point.name == name)
        return cast(T, _load(target))

    def _written(self, name: str) -> T | None:
        prefix, colon, rest = name.partition(":")
        target = self.written.get(prefix + colon)
        return None if target is None else cast(T, _load(target)(rest))


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
