"""What a rule sees of one op: the layouts of its inputs, what it says of its outputs, and what it may state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import Dim, Layout, mark_inexact, pin, size_of, split_sum, unify
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.table import RuleTable
from secateur.ir.types import Dim as Size

if TYPE_CHECKING:
    from secateur.ir.dims.branches import Picks

Layouts: TypeAlias = list[Layout]
"""One layout for each axis of a value."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a constant: ops that share one may keep different parts of it."""

    op: Op
    port: int


Place: TypeAlias = Value | Use
"""What has axes: a value that is computed or fed, or one use of a constant."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One index of an axis that an op takes by itself, and hands on at an output port."""

    op: Op
    port: int
    layout: Layout
    index: int

    @property
    def value(self) -> Value:
        """What is made of it."""
        made = self.op.outputs[self.port]
        assert made is not None
        return made


class Unruly(Exception):
    """A rule cannot speak of this op: the reason why all that it touches is pinned."""


class Axes:
    """One op in the eyes of its rule. Inputs have layouts; the rule gives the outputs theirs."""

    def __init__(
        self,
        known: Known,
        op: Op,
        layouts: dict[Place, Layouts],
        symbols: dict[str, Dim],
        picks: Picks | None = None,
    ) -> None:
        self.known = known
        self.op = op
        self._layouts = layouts
        self._symbols = symbols
        self._picks = picks

    def at(self, op: Op) -> Axes:
        """Another op, in the eyes of this one's rule."""
        return Axes(self.known, op, self._layouts, self._symbols, self._picks)

    def vanishes(self, value: Value) -> bool:
        """True where all that is made of a value vanishes when it reads as zero."""
        return self._picks is not None and self._picks.branches.trace([value]).stuck is None

    def takes_one(self, layout: Layout, index: int, port: int = 0) -> bool:
        """An output is one index of an axis: false where that must stay, as not all that is made of it vanishes."""
        return self._picks is not None and self._picks.offer(Pick(self.op, port, layout, index))

    @cached_property
    def title(self) -> str:
        """How reasons name the op."""
        return str(self.op)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the op."""
        return self.op.attribute(name, default)

    def place(self, port: int) -> Place | None:
        """What is read at an input port; None where nothing is."""
        value = self.op.input(port)
        if value is None:
            return None
        return value if self.known.constant(value) is None else Use(self.op, port)

    def has(self, port: int) -> bool:
        """True where something is read at a port."""
        return self.op.input(port) is not None

    def input(self, port: int) -> Layouts:
        """The layouts at an input port.

        Raises:
            Unruly: nothing is there, or its rank is not known.
        """
        place = self.place(port)
        if place is None:
            raise Unruly(f"{self.op} has nothing at input {port}")
        found = self._layouts.get(place)
        if found is None:
            value = self.op.inputs[port]
            assert value is not None
            found = self._layouts[place] = self.fresh(value)
        elif not found and self.known.rank(self.op.input(port)) is None:
            raise Unruly(f"the rank of {self.op.input(port)} is not known")
        return found

    def made(self, value: Value) -> Layouts | None:
        """The layouts of a value that is no constant, where it has been met."""
        return self._layouts.get(value)

    def fresh(self, value: Value) -> Layouts:
        """New layouts of the sizes that are known of a value; sizes of one name are one dimension.

        Raises:
            Unruly: the rank is not known.
        """
        shape = self.known.shape(value)
        if shape is None:
            raise Unruly(f"the rank of {value.name!r} is not known")
        return [self.axis(size, value.name) for size in shape]

    def axis(self, size: Size, origin: str = "") -> Layout:
        """A new layout of one axis."""
        if size == 1:
            return ()
        if isinstance(size, str):
            return (self._symbols.setdefault(size, Dim(None, size)),)
        return (Dim(size, origin),)

    def output(self, layouts: Sequence[Layout], port: int = 0) -> None:
        """Gives an output its layouts."""
        if port < len(self.op.outputs) and (value := self.op.outputs[port]) is not None:
            self._layouts[value] = list(layouts)

    def fresh_output(self, port: int = 0, rank: int | None = None) -> Layouts:
        """Gives an output new layouts of the sizes that are known of it, and returns them.

        `rank` is the number of its axes, where the operator tells it.
        """
        value = self.op.outputs[port] if port < len(self.op.outputs) else None
        if value is None:
            return []
        unknown = rank is not None and self.known.rank(value) is None
        self._layouts[value] = [self.axis(None, value.name) for _ in range(rank or 0)] if unknown else self.fresh(value)
        return self._layouts[value]

    def size(self, value: Value | None, axis: int) -> int | None:
        """The size of an axis where it is a number."""
        size, layouts = self.known.size(value, axis), None if value is None else self._layouts.get(value)
        if size is None and layouts and -len(layouts) <= axis < len(layouts):
            return size_of(layouts[axis])
        return size

    def constant(self, port: int) -> NDArray[Any] | None:
        """The numbers at a port, where they are constant."""
        tensor = self.known.constant(self.op.input(port))
        return None if tensor is None else tensor.numpy()

    def integers(self, port: int, attribute: str = "") -> list[int] | None:
        """Whole numbers, given as an attribute (old opsets) or an input; None where neither is constant."""
        given = self.attribute(attribute) if attribute else None
        if given is None and (array := self.constant(port)) is not None:
            given = np.asarray(array).reshape(-1).tolist()
        return None if given is None else [int(number) for number in given]

    def unify(self, one: Iterable[Dim], other: Iterable[Dim]) -> None:
        """Two axes, or runs of axes, are the same."""
        unify(one, other, self.title)

    def split(self, layout: Layout, sizes: Sequence[int]) -> list[Layout] | None:
        """An axis as the parts that follow each other on it; None, and pinned, where it cannot be cut there."""
        return split_sum(layout, sizes, self.title)

    def pin(self, layout: Iterable[Dim], reason: str) -> None:
        """No index may go."""
        if layout:
            pin(layout, f"{self.title} {reason}")

    def inexact(self, layout: Iterable[Dim], reason: str) -> None:
        """Removing is more than masking."""
        mark_inexact(layout, f"{self.title} {reason}")


DimsRule: TypeAlias = Callable[[Axes], None]

dims_rules: RuleTable[DimsRule] = RuleTable("which axes of its inputs and outputs are the same?")
