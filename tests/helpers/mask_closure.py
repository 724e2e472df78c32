"""The second opinion on structured pruning: what else must go, found by running ops on boolean masks.

It shares nothing with the algebra of dimensions: every tensor has a mask of its removed elements, every op spreads
them in both directions, until nothing changes. What comes out must be a union of whole slabs of each tensor, and of
each box that an op sees an axis as. Slow, and simple enough to be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from helpers import closure_rules_attention, closure_rules_linear  # noqa: F401  (they enter their rules)
from helpers.closure_masks import Masks, Misfit, Place, Reason, title
from helpers.closure_rules import Visit, rules
from helpers.closure_static import measured
from numpy.typing import NDArray

from secateur.ir import Graph, Op, TensorType, Value
from secateur.ir.types import ValueType

Unit: TypeAlias = Mapping[Place, Mapping[int, Sequence[int]]]
"""What goes together: of each place, of each of its axes, the indices."""
Policy: TypeAlias = Callable[[Misfit], int]
"""Which of a misfit's `choices` to remove whole slabs along."""

_MOST_CHOICES = 200


@dataclass(frozen=True)
class Closure:
    """All that goes when something goes."""

    removed: dict[Place, dict[int, list[int]]]
    """The slabs that are removed entirely, by place and axis, sorted; nothing for what is untouched."""
    misaligned: list[Misfit]
    """What cannot be cut out, since it is no union of slabs."""
    emptied: list[Place]
    """Tensors of which nothing would be left."""
    pinned: list[Reason]
    """Why it cannot go: an interface, an op without a rule, a kernel, a softmax, data."""
    inexact: list[Reason]
    """Why removing is more than masking."""
    masks: Masks = field(repr=False)

    @property
    def of_constants(self) -> dict[Place, dict[int, list[int]]]:
        """What uses of constants lose."""
        return {place: axes for place, axes in self.removed.items() if not isinstance(place, Value)}


class MaskClosure:
    """Closes sets of removed slabs of one graph (bodies of its ops not included)."""

    def __init__(
        self,
        graph: Graph,
        types: Mapping[Value, ValueType],
        numbers: Mapping[Value, NDArray[Any]] | None = None,
        *,
        packed: Mapping[Value, int] | None = None,
    ) -> None:
        """Masks are made only for what is touched.

        Args:
            graph: a model. Ops that hold bodies are unknown to it.
            types: static shapes of all values.
            numbers: of values that follow from constants and shapes alone (bounds of a Slice, indices of a Gather).
            packed: values that may be cut differently at each index of one axis, since they are only taken apart
                along it; and that axis. See `packed_values`.
        """
        self.graph = graph
        self._types = types
        self._numbers = numbers or {}
        self._packed: dict[Place, int] = dict((packed or {}).items())
        self._inputs, self._outputs = set(graph.inputs), set(graph.outputs)

    @classmethod
    def of(
        cls,
        graph: Graph,
        sizes: Mapping[str, int] | None = None,
        *,
        feeds: Mapping[str, NDArray[Any]] | None = None,
        unpack: bool = False,
    ) -> MaskClosure:
        """With shapes measured by running the model once; `unpack` lets packed tensors be cut part by part."""
        types, numbers = measured(graph, sizes, feeds)
        return cls(graph, types, numbers, packed=packed_values(graph, types) if unpack else None)

    def shape(self, place: Place) -> tuple[int, ...]:
        """The static shape of a place.

        Raises:
            KeyError: it has none.
        """
        value = self._value(place)
        kind = TensorType(value.const.dtype, value.const.shape) if value.const else self._types.get(value, value.type)
        if not isinstance(kind, TensorType) or kind.shape is None or not kind.is_static:
            raise KeyError(f"{title(place)} has no static shape: {kind}")
        return tuple(dim for dim in kind.shape if isinstance(dim, int))

    def use(self, name: str, index: int = 0) -> Place:
        """The place of a value by its name; of a constant one of its uses."""
        value = self.graph[name]
        return value if self.graph.constant(value) is None else self.graph.uses(value)[index]

    def close(
        self, place: Place, axis: int, indices: Sequence[int], policy: Policy | None = None, *, most: int = 1000
    ) -> Closure:
        """All that goes when these slabs of one tensor go.

        Args:
            place: a value, or a use of a constant.
            axis: of that tensor.
            indices: along that axis.
            policy: settles what comes out ragged; without one it is left so, and said in `misaligned`.
            most: how often the policy is asked at most.
        """
        masks = self._seeded({place: {axis: indices}})
        self._spread(masks)
        for _ in range(most if policy is not None else 0):
            misfit = next(masks.misfits(), None)
            if misfit is None or policy is None or not misfit.choices:
                break
            masks.settle(misfit, policy(misfit))
            self._spread(masks)
        return self._closure(masks)

    def close_all(self, unit: Unit) -> Closure:
        """All that goes when all of these slabs go."""
        masks = self._seeded(unit)
        self._spread(masks)
        return self._closure(masks)

    def smallest(self, place: Place, axis: int, index: int) -> list[Closure]:
        """The smallest removable sets that have this index: one, or one for each way to see it (its head, its width).

        What is ragged is settled in every way, one axis of each tensor at a time; what empties a tensor doesn't count.
        """
        found: list[Closure] = []
        for closure in self._settled(self._seeded({place: {axis: [index]}})):
            if any(_within(other, closure) for other in found):
                continue
            found = [other for other in found if not _within(closure, other)]
            found.append(closure)
        return found

    def inside(self, place: Place, axis: int, indices: Sequence[int], limit: Closure) -> Iterator[Closure]:
        """Every removable set that grows out of these slabs and stays inside another one."""
        yield from self._settled(self._seeded({place: {axis: indices}}), limit)

    def _settled(self, masks: Masks, limit: Closure | None = None) -> Iterator[Closure]:
        waiting = [masks]
        for _ in range(_MOST_CHOICES):
            if not waiting:
                return
            masks = waiting.pop()
            self._spread(masks)
            if any(map(masks.is_empty, masks)) or not (limit is None or _inside(masks, limit.masks)):
                continue
            misfit = next(masks.misfits(), None)
            if misfit is None:
                yield self._closure(masks)
                continue
            for choice in misfit.choices:
                grown = masks.copy()
                grown.settle(misfit, choice)
                waiting.append(grown)
        raise RuntimeError(f"more than {_MOST_CHOICES} ways to settle what is ragged")

    def _seeded(self, unit: Unit) -> Masks:
        masks = Masks(self.shape, self._packed)
        for place, axes in unit.items():
            for axis, indices in axes.items():
                masks.remove(place, axis, list(indices))
        return masks

    def _spread(self, masks: Masks) -> None:
        """Runs the rules of all ops around what has grown, until nothing grows."""
        while masks.grown:
            place = next(iter(masks.grown))
            del masks.grown[place]
            self._pin_interface(masks, place)
            for op in self._around(place):
                self._visit(masks, op)

    def _around(self, place: Place) -> list[Op]:
        if not isinstance(place, Value):
            return [place[0]]
        maker = self.graph.producer(place)
        return [*([maker] if maker is not None else []), *self.graph.consumers(place)]

    def _visit(self, masks: Masks, op: Op) -> None:
        visit = Visit(self.graph, op, masks, self._numbers)
        rule = rules.get(op)
        places = [visit.at(port) for port in range(len(op.inputs))] + list(op.outputs)
        if rule is None or op.bodies():
            visit.pin_op("unknown", "no rule for this op")
        elif not all(place is None or self._has_shape(place) for place in places):
            visit.pin_op("unknown", "a shape of this op is not known")
        else:
            rule(visit)

    def _has_shape(self, place: Place) -> bool:
        kind = self._types.get(self._value(place), self._value(place).type)
        return isinstance(kind, TensorType) and kind.is_static

    def _pin_interface(self, masks: Masks, place: Place) -> None:
        value = self._value(place)
        if value in self._inputs or value in self._outputs:
            what = "an input" if value in self._inputs else "an output"
            masks.pinned[Reason("interface", f"{title(place)} is {what} of the graph")] = None

    def _value(self, place: Place) -> Value:
        value = place if isinstance(place, Value) else place[0].inputs[place[1]]
        assert value is not None
        return value

    def _closure(self, masks: Masks) -> Closure:
        removed: dict[Place, dict[int, list[int]]] = {}
        for place in masks:
            slabs = {axis: masks.slabs(place, axis) for axis in range(masks.mask(place).ndim)}
            if found := {axis: which.nonzero()[0].tolist() for axis, which in slabs.items() if which.any()}:
                removed[place] = found
        emptied = [place for place in masks if masks.is_empty(place)]
        return Closure(removed, list(masks.misfits()), emptied, list(masks.pinned), list(masks.inexact), masks)


def blocked(closure: Closure, *, tolerate: Collection[str] = ()) -> list[str]:
    """Why this cannot be removed: what is pinned, ragged, or would be empty; nothing where it can.

    `tolerate` are kinds of reason that don't count: "softmax", say, for who knows how to remove along one.
    """
    return [
        *(str(reason) for reason in closure.pinned if reason.kind not in tolerate),
        *(f"ragged: {misfit}" for misfit in closure.misaligned),
        *(f"nothing of {title(place)} would be left" for place in closure.emptied),
    ]


def check_unit(
    closure: MaskClosure, unit: Unit, *, tolerate: Collection[str] = (), most: int | None = None
) -> str | None:
    """What is wrong with a claim that exactly this goes together; None where it is right.

    Nothing else may have to go with it, and nothing of it may be pinned, ragged, or a tensor's last. From its indices
    at any one place all of it must follow, and from any single one of them too: where these are ragged, in every way
    to settle that inside the unit. Values that flow may be left out of a unit; uses of constants may not.

    Args:
        closure: of the graph.
        unit: what is claimed.
        tolerate: kinds of reason to pin that don't count; see `blocked`.
        most: from how many places at most to start, evenly chosen, where a unit has too many to try all.
    """
    whole = closure.close_all(unit)
    if not whole.removed:
        return "the unit has no place"
    if (wrong := _difference(whole, unit, tolerate)) is not None:
        return wrong
    lists = [(place, axis, indices) for place, axes in unit.items() for axis, indices in axes.items()]
    for place, axis, indices in _seeds(lists, most or len(lists)):
        outcomes = list(closure.inside(place, axis, indices, whole))
        smaller = next((found for found in outcomes if not _within(whole, found)), None)
        start = f"{_short(indices)} of {title(place)}, axis {axis}"
        if smaller is not None:
            return f"{start}, could go without the rest: {_lack(whole, smaller)}"
        if not outcomes:
            return f"{start}, is ragged, and growing it inside the unit doesn't mend that"
    return None


def _seeds(lists: list[tuple[Place, int, Sequence[int]]], most: int) -> Iterator[tuple[Place, int, Sequence[int]]]:
    """Every list (or some of them) whole, the first index of each, and each index of the shortest of all."""
    chosen = lists[:: -(-len(lists) // most)]
    place, axis, indices = min(lists, key=lambda item: len(item[2]))
    yield from ((place, axis, [index]) for index in indices)
    for place, axis, indices in chosen:
        yield place, axis, indices
        if len(indices) > 1:
            yield place, axis, indices[:1]


def _difference(found: Closure, unit: Unit, tolerate: Collection[str]) -> str | None:
    """Where a closure is not what it was made from."""
    for place, axes in found.removed.items():
        if place not in unit and isinstance(place, Value):
            continue
        wanted = unit.get(place, {})
        for axis, indices in axes.items():
            if indices != sorted(wanted.get(axis, ())):
                claim = f"not {_short(sorted(wanted[axis]))}" if axis in wanted else "which the unit does not say"
                return f"axis {axis} of {title(place)} loses {_short(indices)}, {claim}"
    return next(iter(blocked(found, tolerate=tolerate)), None)


def _lack(whole: Closure, found: Closure) -> str:
    place, axis = next(
        (place, axis)
        for place, axes in whole.removed.items()
        for axis, indices in axes.items()
        if found.removed.get(place, {}).get(axis) != indices
    )
    lost = found.removed.get(place, {}).get(axis, [])
    return f"axis {axis} of {title(place)} would lose {_short(lost)} instead of {_short(whole.removed[place][axis])}"


def _within(one: Closure, other: Closure) -> bool:
    return _inside(one.masks, other.masks)


def _inside(one: Masks, other: Masks) -> bool:
    return all(not (one.mask(place) & ~other.mask(place)).any() for place in one)


def _short(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:12]))
    return f"[{shown}{', …' if len(indices) > 12 else ''}]"


def packed_values(graph: Graph, types: Mapping[Value, ValueType]) -> dict[Value, int]:
    """Values that are only ever taken apart along one axis (Split, or Gather and Slice by constants), and that axis.

    Transpositions on the way are seen through.
    """
    found: dict[Value, int] = {}
    for op in reversed(graph.ops()):
        for value in (value for value in op.outputs if value is not None):
            axes = {_taken_apart(graph, types, user, found) for user in graph.consumers(value)}
            axis = axes.pop() if len(axes) == 1 and value not in graph.outputs else None
            if axis is not None:
                found[value] = axis
    return found


def _taken_apart(graph: Graph, types: Mapping[Value, ValueType], op: Op, found: Mapping[Value, int]) -> int | None:
    kind = types.get(op.inputs[0]) if op.inputs and op.inputs[0] is not None else None
    rank = len(kind.shape) if isinstance(kind, TensorType) and kind.shape else 0
    if not rank:
        return None
    if op.op_type == "Transpose" and op.output in found:
        order = op.attribute("perm", tuple(reversed(range(rank))))
        return int(order[found[op.output]])
    if op.op_type == "Split" or (op.op_type == "Gather" and graph.constant(op.input(1)) is not None):
        return int(op.attribute("axis", 0)) % rank
    axes = graph.constant(op.input(3)) if op.op_type == "Slice" else None
    return int(axes.numpy().reshape(-1)[0]) % rank if axes is not None and axes.size == 1 else None
