"""Optimization profiles: which sizes an engine is built for, checked against the model before the builder runs.

TensorRT takes unknown input names in silence and says most other mistakes only after minutes of building, so all is
checked here first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.backends.tensorrt.errors import ProfileError, ShapeError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ShapeRange:
    """The smallest, the most frequent and the largest size of one input.

    For an input whose *values* are a shape (it feeds a Reshape, say) these are the values, not the dimensions, and may
    be negative: -1 tells a Reshape to find the size itself.

    Raises:
        ShapeError: the three differ in rank, or minimum <= optimum <= maximum does not hold.
    """

    input: str
    min: Shape
    opt: Shape
    max: Shape

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ShapeError(
                f"input {self.input!r}: the minimum has {len(self.min)} dimensions, the optimum {len(self.opt)} and "
                f"the maximum {len(self.max)}; they must agree",
                input=self.input,
            )
        for axis, (low, best, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not -(2**63) <= low <= best <= high < 2**63:
                raise ShapeError(
                    f"input {self.input!r}, axis {axis}: expected minimum <= optimum <= maximum, "
                    f"found {low}, {best}, {high}",
                    input=self.input,
                    hint="give the smallest shape first, then the most frequent one, then the largest",
                )

    def __str__(self) -> str:
        shapes = (self.min,) if self.min == self.max else (self.min, self.opt, self.max)
        return f"{self.input}={','.join('x'.join(map(str, shape)) for shape in shapes)}"


@dataclass(frozen=True)
class Profile:
    """One range for each input whose size is not fixed. An engine may be built for several profiles.

    Raises:
        ShapeError: an input is named twice.
    """

    ranges: tuple[ShapeRange, ...]

    def __post_init__(self) -> None:
        names = [entry.input for entry in self.ranges]
        for name in names:
            if names.count(name) > 1:
                raise ShapeError(f"input {name!r} is named {names.count(name)} times in one profile", input=name)

    def __str__(self) -> str:
        return " ".join(map(str, self.ranges))


@dataclass(frozen=True)
class NetworkInput:
    """An input as TensorRT parsed it. A size that is not fixed is -1; `dimensions` holds its name, or ""."""

    name: str
    dtype: str
    shape: Shape
    dimensions: tuple[str, ...]
    is_shape: bool

    @property
    def is_dynamic(self) -> bool:
        """Whether a profile must say something about it."""
        return self.is_shape or -1 in self.shape

    def __str__(self) -> str:
        sizes = (label if size < 0 else str(size) for size, label in zip(self.shape, self.dimensions, strict=True))
        return f"{self.name} {self.dtype}[{', '.join(size or '?' for size in sizes)}]"


def parse_shape(text: str) -> ShapeRange:
    """ "x=1x3x224x224,4x3x224x224,8x3x224x224" -> minimum, optimum, maximum of input x; one shape stands for all three.

    Raises:
        ShapeError: the text has another form, or the sizes are not in order.
    """
    name, equals, shapes = text.rpartition("=")
    try:
        parsed = [tuple(int(size) for size in shape.split("x")) for shape in shapes.split(",")]
    except ValueError:
        parsed = []
    if not equals or not name or len(parsed) not in (1, 3):
        raise ShapeError(
            f"cannot read the shape {text!r}",
            input=name or None,
            hint="write NAME=SHAPE or NAME=MIN,OPT,MAX, for example x=1x3x224x224,4x3x224x224,8x3x224x224",
        )
    return ShapeRange(name, parsed[0], parsed[len(parsed) // 2], parsed[-1])


def network_inputs(network: Any) -> tuple[NetworkInput, ...]:
    """The input signature of a parsed TensorRT network."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    return tuple(
        NetworkInput(
            name=tensor.name,
            dtype=tensor.dtype.name.lower(),
            shape=tuple(tensor.shape),
            dimensions=tuple(tensor.get_dimension_name(axis) or "" for axis in range(len(tensor.shape))),
            is_shape=bool(tensor.is_shape_tensor),
        )
        for tensor in tensors
    )


def check_profiles(inputs: Sequence[NetworkInput], profiles: Sequence[Profile]) -> None:
    """Passes when every profile covers every dynamic input with sizes that the model can take, and nothing else.

    Raises:
        ProfileError: names the input, what was expected and what was found.
    """
    dynamic = [entry for entry in inputs if entry.is_dynamic]
    if dynamic and not profiles:
        raise ProfileError(
            "the model has inputs of no fixed size, and no shapes were given: " + "; ".join(map(str, dynamic)),
            input=dynamic[0].name,
            hint="give each its sizes, for example " + " ".join(f'--shape "{_example(entry)}"' for entry in dynamic),
        )
    for profile in profiles:
        _check_profile(inputs, profile)


def _check_profile(inputs: Sequence[NetworkInput], profile: Profile) -> None:
    known = {entry.name: entry for entry in inputs}
    for given in profile.ranges:
        if given.input not in known:
            raise ProfileError(
                f"the model has no input {given.input!r}; its inputs are {'; '.join(map(str, inputs))}",
                input=given.input,
            )
        _check_range(known[given.input], given)
    named = {given.input for given in profile.ranges}
    for entry in inputs:
        if entry.is_dynamic and entry.name not in named:
            raise ProfileError(
                f"the profile does not say the size of input {entry}",
                input=entry.name,
                hint=f'add for example --shape "{_example(entry)}"',
            )
    _check_shared_dimensions([(known[given.input], given) for given in profile.ranges])


def _check_range(entry: NetworkInput, given: ShapeRange) -> None:
    expected = (-1,) * math.prod(entry.shape) if entry.is_shape else entry.shape
    if len(given.opt) != len(expected):
        kind = "values" if entry.is_shape else "dimensions"
        raise ProfileError(
            f"input {entry}: expected {len(expected)} {kind}, found {len(given.opt)} in {given}", input=entry.name
        )
    for axis, size in enumerate(expected):
        found = {given.min[axis], given.opt[axis], given.max[axis]}
        if given.min[axis] < 0 and not entry.is_shape:
            raise ProfileError(
                f"input {entry}, axis {axis}: expected a size of 0 or more, found {given.min[axis]} in {given}",
                input=entry.name,
                hint="give the smallest size that will be fed",
            )
        if size >= 0 and found != {size}:
            raise ProfileError(
                f"input {entry}: axis {axis} is fixed at {size}, found {sorted(found - {size})[0]} in {given}",
                input=entry.name,
            )


def _check_shared_dimensions(pairs: Iterable[tuple[NetworkInput, ShapeRange]]) -> None:
    """One dimension name is one size at run time, so its ranges must agree wherever it occurs."""
    seen: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for entry, given in pairs:
        if entry.is_shape:
            continue
        for axis, (size, label) in enumerate(zip(entry.shape, entry.dimensions, strict=True)):
            if size >= 0 or not label:
                continue
            found = (given.min[axis], given.opt[axis], given.max[axis])
            first, expected = seen.setdefault(label, (entry.name, found))
            if found != expected:
                raise ProfileError(
                    f"input {entry}: dimension {label!r} is {_range(expected)} in input {first!r}, "
                    f"but {_range(found)} here; one name is one size",
                    input=entry.name,
                )


def _range(sizes: tuple[int, int, int]) -> str:
    return ",".join(map(str, sizes))


def _example(entry: NetworkInput) -> str:
    """A range of the right form; 1, 4 and 8 stand where the reader's own sizes go."""
    if entry.is_shape:
        return str(ShapeRange(entry.name, *((size,) * math.prod(entry.shape) for size in (1, 4, 8))))
    shapes = (tuple(filler if size < 0 else size for size in entry.shape) for filler in (1, 4, 8))
    return str(ShapeRange(entry.name, *shapes))


def add_profiles(builder: Any, config: Any, inputs: Sequence[NetworkInput], profiles: Sequence[Profile]) -> None:
    """Hands checked profiles to the builder's configuration. A model whose inputs are all fixed needs none."""
    dynamic = {entry.name: entry for entry in inputs if entry.is_dynamic}
    if not dynamic:
        return
    for number, profile in enumerate(profiles):
        made = builder.create_optimization_profile()
        for given in profile.ranges:
            if given.input in dynamic:
                setter = made.set_shape_input if dynamic[given.input].is_shape else made.set_shape
                setter(given.input, given.min, given.opt, given.max)
        if config.add_optimization_profile(made) < 0:
            raise ProfileError(f"TensorRT does not take profile {number}: {profile}")
