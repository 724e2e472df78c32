"""What a weight promises: N:M zeros along an axis. A mark on the constant that passes and files keep.

It lives in the metadata of the value, so that copies, texts, comparisons and ONNX files (`metadata_props` of its value
info) have it without knowing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.sparsity import holds_along
from secateur.ir.tensor import Tensor

KEY = "secateur.sparsity"
"""The entry of the metadata."""

_WRITTEN = re.compile(r"(\d+):(\d+) axis (\d+)")


@dataclass(frozen=True)
class SparsityScheme:
    """Of every `group` neighbours along `axis` at most `keep` are not zero. As text: `2:4 axis 1`."""

    keep: int
    group: int
    axis: int

    def __str__(self) -> str:
        return f"{self.keep}:{self.group} axis {self.axis}"

    @classmethod
    def of(cls, value: Value) -> Self | None:
        """What a value is marked with; None where it is not, or with something that this is not."""
        found = _WRITTEN.fullmatch(value.metadata.get(KEY, ""))
        return None if found is None else cls(*map(int, found.groups()))

    def mark(self, value: Value) -> None:
        """Marks a constant."""
        value.metadata = {**value.metadata, KEY: str(self)}

    def holds(self, tensor: Tensor) -> bool:
        """True where the numbers are as promised."""
        return self.axis < len(tensor.shape) and holds_along(tensor, self.axis, self.keep, self.group)


def unmark(value: Value) -> None:
    """Takes the mark off."""
    value.metadata = {key: text for key, text in value.metadata.items() if key != KEY}


def broken_schemes(graph: Graph, before: Graph) -> Iterator[Value]:
    """The marked constants whose numbers are not those of before, and not as promised."""
    for value in graph.constants():
        scheme = SparsityScheme.of(value) if value.metadata else None
        if scheme is None or value.const is None:
            continue
        old = before.get(value.name)
        if (old is None or old.const is not value.const) and not scheme.holds(value.const):
            yield value
