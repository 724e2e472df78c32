"""What a layer may become: a number format, dense or 2:4. As text: `float`, `int8`, `int4`, `2:4`, `2:4+int8`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from secateur.passes.quantize.formats import Format, find_format

SPARSE = "2:4"
"""The one pattern that kernels read."""


@dataclass(frozen=True)
class Option:
    """One of the things that a layer may become.

    Attributes:
        format: of its weight, and of what it reads where the format says so; None for float, as it is.
        sparse: whether its weight becomes 2:4 before.
    """

    format: Format | None = None
    sparse: bool = False

    def __str__(self) -> str:
        named = [SPARSE] if self.sparse else []
        if self.format is not None:
            named.append(self.format.name)
        return "+".join(named) or "float"

    @property
    def runs(self) -> bool:
        """Whether runtimes other than TensorRT run what becomes of it, so that it can be tried."""
        return self.format is None or self.format.levels == "plain"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `int8`, `2:4` or `2:4+int8`.

        Raises:
            ValueError: there is no such format, or another pattern than 2:4.
        """
        first, plus, rest = text.partition("+")
        if first == SPARSE:
            if plus and not rest:
                raise ValueError(f"expected a number format behind {text!r}, such as 2:4+int8")
            return cls(find_format(rest) if rest else None, sparse=True)
        if plus or ":" in first:
            raise ValueError(f"an option is a number format, 2:4, or 2:4+ and a format, such as 2:4+int8; got {text!r}")
        return cls(find_format(first))


KEEP = Option()
"""Float, as it is."""
