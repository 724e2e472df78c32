"""Boolean masks over tensors: which elements are removed, how that spreads, and whether what remains is a box.

A *slab* is all that a tensor has at one index of one axis. What can be cut out of a tensor is a union of whole slabs;
anything else is a misfit. Masks only ever grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir import Op, Value

Place: TypeAlias = Value | tuple[Op, int]
"""A value that flows; or one use of a constant, as the op and the input port: uses of a shared constant don't tie."""
Mask: TypeAlias = NDArray[np.bool_]
See: TypeAlias = Callable[[Mask], Mask]
"""A numpy view of a mask: what is written to it is written to the mask."""


@dataclass(frozen=True)
class Reason:
    """Why something cannot be removed (`kind` is a word to tell reasons apart), or not exactly."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Grid:
    """A stretch of an axis that an op sees as a box of its own: [groups, channels of a group], [heads, width]."""

    place: Place
    axis: int
    start: int
    labels: tuple[str, ...]
    shape: tuple[int, ...]

    def positions(self) -> NDArray[np.int64]:
        return self.start + np.arange(prod(self.shape)).reshape(self.shape)


@dataclass(frozen=True)
class Misfit:
    """Removed elements of a tensor, or of a grid on one of its axes, that whole removed slabs do not account for."""

    place: Place
    grid: Grid | None
    residue: Mask

    @property
    def choices(self) -> tuple[int, ...]:
        """The axes of `residue` along which whole slabs may be removed instead, so that something is left."""
        labels = self.grid.labels if self.grid else ("",) * self.residue.ndim
        return tuple(k for k, label in enumerate(labels) if not label.startswith("!") and not self.hit(k).all())

    def hit(self, choice: int) -> Mask:
        """Which slabs along one axis of `residue` have an unaccounted element."""
        return np.asarray(self.residue.any(axis=_others(self.residue, choice)))

    def __str__(self) -> str:
        seen = f"axis {self.grid.axis} of {title(self.place)}, seen as " if self.grid else f"{title(self.place)}, "
        first = [tuple(map(int, where)) for where in np.argwhere(self.residue)[:3]]
        return f"{seen}{list(self.residue.shape)}: {int(self.residue.sum())} elements are no whole slabs, like {first}"


def title(place: Place) -> str:
    """How messages name a place."""
    if isinstance(place, Value):
        return repr(place.name)
    op, port = place
    return f"{op.inputs[port]!r} at input {port} of {op.title}"


class Masks:
    """The masks of all tensors that have been touched, and what has been found out on the way."""

    def __init__(self, shape_of: Callable[[Place], tuple[int, ...]], packed: Mapping[Place, int] | None = None) -> None:
        """No element is removed yet.

        Args:
            shape_of: the static shape of a place.
            packed: tensors that are only ever taken apart along one axis, and that axis: there the parts may lose
                different slabs.
        """
        self.shape_of = shape_of
        self.packed = packed or {}
        self.grown: dict[Place, None] = {}
        """Places that have grown and whose ops have not been told."""
        self.pinned: dict[Reason, None] = {}
        self.inexact: dict[Reason, None] = {}
        self._masks: dict[Place, Mask] = {}
        self._slabs: dict[tuple[Place, int], Mask] = {}
        self._grids: dict[Grid, None] = {}

    def copy(self) -> Masks:
        """The same masks, to be grown in another way."""
        other = Masks(self.shape_of, self.packed)
        other.grown, other.pinned, other.inexact = dict(self.grown), dict(self.pinned), dict(self.inexact)
        other._masks = {place: mask.copy() for place, mask in self._masks.items()}
        other._grids = dict(self._grids)
        return other

    def __contains__(self, place: Place) -> bool:
        return place in self._masks

    def __iter__(self) -> Iterator[Place]:
        return iter(list(self._masks))

    def mask(self, place: Place) -> Mask:
        """The mask itself, in the shape of the tensor."""
        return self._masks[place] if place in self._masks else np.zeros(self.shape_of(place), np.bool_)

    def slabs(self, place: Place, axis: int) -> Mask:
        """Which slabs along one axis are removed entirely: a vector."""
        if place not in self._masks or 0 in self.shape_of(place):
            return np.zeros(self.shape_of(place)[axis], np.bool_)
        found = self._slabs.get((place, axis))
        if found is None:
            mask = self._masks[place]
            found = np.asarray(mask.all(axis=_others(mask, axis)))
            self._slabs[place, axis] = found
        return found

    def is_empty(self, place: Place) -> bool:
        """True where nothing of the tensor is left."""
        return place in self._masks and bool(self._masks[place].all())

    def remove(self, place: Place, axis: int, which: Mask | Sequence[int] | NDArray[np.int64]) -> None:
        """Removes whole slabs, given as a vector of booleans or as indices."""
        wanted = np.zeros(self.shape_of(place)[axis], np.bool_)
        wanted[np.asarray(which)] = True
        if 0 not in self.shape_of(place) and (wanted & ~self.slabs(place, axis)).any():
            mask = self._masks.setdefault(place, np.zeros(self.shape_of(place), np.bool_))
            np.moveaxis(mask, axis, 0)[wanted] = True
            self._has_grown(place)

    def spread(self, small: Place, large: Place, see_small: See = np.asarray, see_large: See = np.asarray) -> None:
        """Two tensors hold the same elements, the smaller one's repeated along axes where its size is one.

        An element of the smaller one takes all its copies with it; it goes itself when all of them have gone.
        """
        if (small not in self._masks and large not in self._masks) or 0 in self.shape_of(large):
            return
        mine = self._masks.get(small, np.zeros(self.shape_of(small), np.bool_))
        theirs = self._masks.get(large, np.zeros(self.shape_of(large), np.bool_))
        few, many = see_small(mine), see_large(theirs)
        assert np.may_share_memory(few, mine)
        assert np.may_share_memory(many, theirs)
        few = few.reshape((1,) * (many.ndim - few.ndim) + few.shape)
        repeated = tuple(axis for axis in range(many.ndim) if few.shape[axis] != many.shape[axis])
        gone = many.all(axis=repeated, keepdims=True)
        if (gone & ~few).any():
            few |= gone
            self._masks[small] = mine
            self._has_grown(small)
        if (few & ~many).any():
            many |= few
            self._masks[large] = theirs
            self._has_grown(large)

    def link(self, sizes: Mapping[str, int], *members: tuple[Place | None, Sequence[str]]) -> None:
        """Axes that bear the same label lose the same indices, whole slabs at a time.

        Args:
            sizes: of labels, where they don't follow from an axis that bears one label only.
            members: a tensor and what each of its axes is: `"c"` one label; `"g i"` a product, outermost first;
                `"h d + h d"` stretches that follow each other; `""` nothing that is linked. A label that begins with
                `!` tells indices apart without being removable itself. An axis of size one repeats what it meets.
        """
        present = [(place, axes) for place, axes in members if place is not None]
        sizes = self._sizes(sizes, present)
        grids = [grid for place, axes in present for grid in self._seen(sizes, place, axes)]
        self._grids.update((grid, None) for grid in grids if sum(size > 1 for size in grid.shape) > 1)
        found: dict[str, Mask] = {label: np.zeros(size, np.bool_) for label, size in sizes.items()}
        lines = [
            (label, grid, np.moveaxis(grid.positions(), k, 0).reshape(grid.shape[k], -1))
            for grid in grids
            for k, label in enumerate(grid.labels)
            if grid.shape[k] > 1 and not label.startswith("!")
        ]
        for label, grid, positions in lines:
            if grid.place in self._masks:
                found[label] |= self.slabs(grid.place, grid.axis)[positions].all(axis=1)
        for label, grid, positions in lines:
            if found[label].any():
                self.remove(grid.place, grid.axis, positions[found[label]].reshape(-1))

    def misfits(self) -> Iterator[Misfit]:
        """Everything that is not a union of whole slabs; packed tensors last, since their parts say more."""
        for place, mask in sorted(self._masks.items(), key=lambda item: item[0] in self.packed):
            covered = _covered(mask, range(mask.ndim))
            if (axis := self.packed.get(place)) is not None:
                parts, rest = np.moveaxis(covered, axis, 0), np.moveaxis(mask, axis, 0)
                for part, inner in zip(parts, rest, strict=True):
                    part |= _covered(inner, range(inner.ndim))
            if (residue := mask & ~covered).any():
                yield Misfit(place, None, residue)
        for grid in self._grids:
            box = self.slabs(grid.place, grid.axis)[grid.positions()]
            free = [k for k, label in enumerate(grid.labels) if not label.startswith("!")]
            if (residue := box & ~_covered(box, free)).any():
                yield Misfit(grid.place, grid, residue)

    def settle(self, misfit: Misfit, choice: int) -> None:
        """Removes every slab along one axis of a misfit that has an unaccounted element."""
        if misfit.grid is None:
            self.remove(misfit.place, choice, misfit.hit(choice))
        else:
            positions = np.moveaxis(misfit.grid.positions(), choice, 0)[misfit.hit(choice)]
            self.remove(misfit.place, misfit.grid.axis, positions.reshape(-1))

    def _has_grown(self, place: Place) -> None:
        self.grown[place] = None
        for axis in range(len(self.shape_of(place))):
            self._slabs.pop((place, axis), None)

    def _sizes(self, given: Mapping[str, int], members: Sequence[tuple[Place, Sequence[str]]]) -> dict[str, int]:
        """The size of every label: as given, else that of an axis with no other label of unknown size."""
        sizes = dict(given)
        axes = [
            (size, pattern.split())
            for place, patterns in members
            for size, pattern in zip(self.shape_of(place), patterns, strict=True)
            if "+" not in pattern
        ]
        for size, labels in sorted(axes, key=lambda item: len(item[1])):
            unknown = [label for label in labels if label not in given]
            if len(unknown) == 1:
                rest = prod(sizes[label] for label in labels if label in given)
                sizes[unknown[0]] = max(size // rest, sizes.get(unknown[0], 1))
        return sizes

    def _seen(self, sizes: Mapping[str, int], place: Place, axes: Sequence[str]) -> Iterator[Grid]:
        for axis, (size, pattern) in enumerate(zip(self.shape_of(place), axes, strict=True)):
            if not pattern or size == 1:
                continue
            terms = [tuple(term.split()) for term in pattern.split("+")]
            shapes = [tuple(sizes[label] for label in term) for term in terms]
            assert sum(map(prod, shapes)) == size, f"axis {axis} of {title(place)} is {size}, not {pattern} = {shapes}"
            start = 0
            for term, shape in zip(terms, shapes, strict=True):
                yield Grid(place, axis, start, term, shape)
                start += prod(shape)


def _covered(mask: Mask, axes: Sequence[int]) -> Mask:
    """The union of the slabs along these axes that are entirely true."""
    covered = np.zeros(mask.shape, np.bool_)
    for axis in axes:
        covered |= mask.all(axis=_others(mask, axis), keepdims=True)
    return covered


def _others(mask: Mask, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(mask.ndim) if other != axis)
