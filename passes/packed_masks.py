"""Masks by name, an eighth of the size that they have in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secateur.ir.masked import Bits


class PackedMasks(MutableMapping[str, NDArray[np.bool_]]):
    """A dict of masks that keeps one bit for each element; what it gives out is a new array every time."""

    def __init__(self) -> None:
        self._bits: dict[str, Bits] = {}

    @classmethod
    def of(cls, masks: Mapping[str, Bits]) -> Self:
        """These masks."""
        made = cls()
        made._bits = dict(masks)
        return made

    def __getitem__(self, name: str) -> NDArray[np.bool_]:
        return self._bits[name].unpacked()

    def __setitem__(self, name: str, mask: NDArray[np.bool_] | Bits) -> None:
        self._bits[name] = mask if isinstance(mask, Bits) else Bits.of(mask)

    def __delitem__(self, name: str) -> None:
        del self._bits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __contains__(self, name: object) -> bool:
        return name in self._bits

    def copy(self) -> Self:
        """Another mapping of the same masks."""
        twin = type(self)()
        twin._bits = dict(self._bits)
        return twin

    def bits(self, name: str) -> Bits:
        """The mask as it is kept."""
        return self._bits[name]

    def __repr__(self) -> str:
        return f"PackedMasks({sorted(self._bits)})"
