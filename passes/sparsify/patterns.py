"""Which zeros a weight may have: N of every M neighbours, a share of all, or none. As text: `2:4`, `50%`, `dense`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers import element_masks
from secateur.calib.solvers.column_sweep import Choice, keep_of, keep_share

Mask: TypeAlias = NDArray[np.bool_]
Scope: TypeAlias = Literal["layer", "row"]
"""What shares are counted over: the whole matrix, or the weights of each output by themselves."""

_NEIGHBOURS = re.compile(r"(?P<keep>\d+):(?P<group>\d+)")
_SHARE = re.compile(r"(?P<percent>\d+(\.\d+)?)%")
_NAMED = re.compile(r"(?P<names>.+):(?P<pattern>dense|\d+:\d+|\d+(\.\d+)?%)")


class Pattern(ABC):
    """What of a matrix [outputs, columns] may stay; columns count kernel taps slowest, input channels fastest."""

    @property
    @abstractmethod
    def zeros(self) -> float:
        """The share of weights that go, in [0, 1)."""

    @abstractmethod
    def mask(self, saliency: NDArray[Any]) -> Mask:
        """True for the weights of most saliency, as many as may stay; of equals the earlier one."""

    @abstractmethod
    def holds(self, matrix: NDArray[Any]) -> bool:
        """True where a matrix has all the zeros that are asked for."""

    @abstractmethod
    def choose(self) -> Choice:
        """How a sweep over columns decides what stays."""

    def misfit(self, channels: int) -> str | None:
        """Why a matrix with so many input channels cannot have the pattern; None where it can."""
        return None


@dataclass(frozen=True)
class Neighbours(Pattern):
    """Of every `group` neighbouring input channels at most `keep` stay: N:M, what sparse tensor cores read as 2:4."""

    keep: int
    group: int

    def __post_init__(self) -> None:
        if not 0 < self.keep < self.group:
            raise ValueError(f"N:M needs 0 < N < M, such as 2:4; got {self}")

    def __str__(self) -> str:
        return f"{self.keep}:{self.group}"

    @property
    def zeros(self) -> float:
        """1 - N / M."""
        return 1 - self.keep / self.group

    def mask(self, saliency: NDArray[Any]) -> Mask:
        """The N of most saliency in each group of M."""
        return element_masks.keep_of(saliency, self.keep, self.group)

    def holds(self, matrix: NDArray[Any]) -> bool:
        """At most N that are not zero in each group."""
        if matrix.shape[-1] % self.group:
            return False
        grouped = matrix.reshape(*matrix.shape[:-1], -1, self.group)
        return bool((np.count_nonzero(grouped, axis=-1) <= self.keep).all())

    def choose(self) -> Choice:
        """Group by group as the sweep comes to it."""
        return keep_of(self.keep, self.group)

    def misfit(self, channels: int) -> str | None:
        """M must divide the channels."""
        return f"its {channels} input channels are no multiple of {self.group}" if channels % self.group else None


@dataclass(frozen=True)
class Share(Pattern):
    """A share of the weights goes, wherever they are: fewer bytes when packed, but no kernel runs it faster."""

    share: Fraction
    scope: Scope = "layer"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"a share of zeros is above 0% and below 100%, got {self}")

    def __str__(self) -> str:
        return f"{float(100 * self.share):.6g}%"

    @property
    def zeros(self) -> float:
        """The share."""
        return float(self.share)

    def mask(self, saliency: NDArray[Any]) -> Mask:
        """All but the share of least saliency: exactly the whole part of it goes."""
        return element_masks.keep_share(saliency, float(1 - self.share), self.scope)

    def holds(self, matrix: NDArray[Any]) -> bool:
        """As many zeros as go, in the whole matrix or in each row."""
        rows = matrix.reshape(1, -1) if self.scope == "layer" else matrix
        wanted = int(rows.shape[1] * self.share)
        return bool((np.count_nonzero(rows == 0, axis=1) >= wanted).all())

    def choose(self) -> Choice:
        """Block of columns by block of columns, each with the share of its own."""
        return keep_share(float(1 - self.share))


@dataclass(frozen=True)
class Dense(Pattern):
    """Everything stays."""

    def __str__(self) -> str:
        return "dense"

    @property
    def zeros(self) -> float:
        """None."""
        return 0.0

    def mask(self, saliency: NDArray[Any]) -> Mask:
        """All."""
        return np.ones(saliency.shape, np.bool_)

    def holds(self, matrix: NDArray[Any]) -> bool:
        """Always."""
        return True

    def choose(self) -> Choice:
        """Never asked."""
        raise AssertionError("what is dense is not swept")


def parse_pattern(text: str, scope: Scope = "layer") -> Pattern:
    """Reads `2:4` (of every 4 at most 2 stay), `50%` (the share of zeros) or `dense`.

    Raises:
        ValueError: it is none of them.
    """
    if scope not in get_args(Scope):
        raise ValueError(f"scope must be one of {', '.join(get_args(Scope))}, got {scope!r}")
    if text == "dense":
        return Dense()
    if found := _NEIGHBOURS.fullmatch(text):
        return Neighbours(int(found["keep"]), int(found["group"]))
    if found := _SHARE.fullmatch(text):
        return Share(Fraction(found["percent"]) / 100, scope)
    raise ValueError(f"a pattern is N:M such as 2:4, a share of zeros such as 50%, or dense; got {text!r}")


def parse_named(text: str, scope: Scope = "layer") -> tuple[str, Pattern]:
    """Reads `*down*:dense`: a glob for names of weights, and the pattern of those it fits.

    Raises:
        ValueError: it is none.
    """
    found = _NAMED.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a name or glob, a colon and a pattern, such as *head*:dense; got {text!r}")
    return found["names"], parse_pattern(found["pattern"], scope)
