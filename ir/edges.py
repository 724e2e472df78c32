"""Edges into concatenations: what a layer reads of each of the values that are joined for it.

Taking one out, the layers behind the concatenation no longer read that value; others still may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from secateur.ir.build import add_constant, emit
from secateur.ir.dims.algebra import Dim, Indices, Layout, find, leaves, owners, size_of
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.dims.axes import Place, Use
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType

_SIZE = 64
"""Stands for sizes that are not known: no weight has them."""


@dataclass(frozen=True)
class Reading:
    """A weight that sums over what is joined.

    Attributes:
        weight: its name.
        axis: of the weight, the one that is summed over.
        columns: indices of that axis that read the edge.
    """

    weight: str
    axis: int
    columns: Indices = field(repr=False, compare=False)


@dataclass(frozen=True)
class Edge:
    """One value that a concatenation joins, and what reads it there.

    Attributes:
        name: the concatenation's output and the place of the value in it, `output:place`.
        concat: the output of the concatenation.
        source: the value.
        place: which one it is; concatenations that only feed another one are seen as part of that.
        start, size: the indices that it has on the joined axis.
        readings: the weights that sum over it.
        parameters: weight elements that go with the edge.
        pin: why it cannot be taken out; None where it can.
    """

    name: str
    concat: str
    source: str
    place: int
    start: int
    size: int
    readings: tuple[Reading, ...]
    parameters: int
    pin: str | None


@dataclass(frozen=True)
class Joint:
    """A concatenation and what it joins, through concatenations along the same axis."""

    op: Op
    axis: int
    sources: tuple[Value, ...]
    sizes: tuple[int, ...]

    @property
    def starts(self) -> list[int]:
        """Where each source begins on the axis."""
        return list(accumulate(self.sizes, initial=0))[:-1]


def concat_edges(known: Known) -> list[Edge]:
    """All edges into concatenations that weights read, in the order of the graph.

    Each concatenation is cut off from what it joins in a copy, and the dimensions behind it are analysed: what its
    indices are tied to then is tied to them by the readers alone.
    """
    graph = known.graph.clone()
    types = {twin: kind for value, kind in known.types.items() if (twin := graph.get(value.name)) is not None}
    here = Known(graph, types)
    joints = [joint for joint in joints_of(here) if joint.op.output not in graph.outputs]
    flatten(graph, joints)
    joints = [joint for joint in joints if graph.is_used(joint.op.output)]
    if not joints:
        return []
    cut = cut_off(here, joints)
    found = dimensions(here)
    places = _places(found)
    ends = {joint.op for joint in joints}
    return [edge for joint in joints for edge in _edges(found, joint, cut[joint.op], places, ends)]


def joints_of(known: Known) -> list[Joint]:
    """The concatenations of two parts or more of known sizes that hold real numbers."""
    found: dict[Value, Joint] = {}
    for op in known.graph.ops():
        kind = known.types.get(op.output, op.output.type) if op.key == ("", "Concat") else None
        if not isinstance(kind, TensorType) or kind.shape is None or not kind.dtype.is_float:
            continue
        axis = op.attribute("axis") % len(kind.shape)
        sources: list[Value] = []
        for value in op.inputs:
            inner = found.get(value) if value is not None else None
            if inner is not None and inner.axis == axis:
                sources.extend(inner.sources)
            elif value is not None:
                sources.append(value)
        sizes = [known.size(value, axis) for value in sources]
        if len(sources) > 1 and None not in sizes:
            found[op.output] = Joint(op, axis, tuple(sources), tuple(size for size in sizes if size is not None))
    return list(found.values())


def flatten(graph: Graph, joints: Iterable[Joint]) -> None:
    """Each concatenation joins its sources by itself, so that none reads another one."""
    for joint in joints:
        if joint.op.inputs != joint.sources:
            graph.set_inputs(joint.op, joint.sources)


def cut_off(known: Known, joints: Iterable[Joint]) -> dict[Op, Op]:
    """Puts zeros of the same shape in the place of concatenations; returns the op that makes them for each."""
    graph, made = known.graph, {}
    for joint in joints:
        value = joint.op.output
        kind = known.types.get(value, value.type)
        assert isinstance(kind, TensorType)
        shape = [size if isinstance(size, int) else _SIZE for size in kind.shape or ()]
        shape[joint.axis] = sum(joint.sizes)
        target = add_constant(graph, f"{value.name}_shape", np.array(shape, np.int64))
        zero = Tensor(np.zeros(1, kind.dtype.numpy), kind.dtype)
        made[joint.op] = emit(graph, "ConstantOfShape", [target], {"value": zero}, outputs=(f"{value.name}_cut",))
        made[joint.op].output.type = replace(kind, shape=tuple(shape))
        graph.replace_all_uses(value, made[joint.op].output)
    return made


def kept_of(found: Dimensions, joint: Joint, cut: Op, places: Iterable[int]) -> dict[Dim, Indices]:
    """For each dimension that a cut-off concatenation is made of, the indices that stay without some of its sources."""
    gone = np.zeros(sum(joint.sizes), bool)
    for place in places:
        start = joint.starts[place]
        gone[start : start + joint.sizes[place]] = True
    kept = {}
    for leaf, start in _terms(found.of(cut.output)[joint.axis]):
        kept[leaf] = np.flatnonzero(~gone[start : start + (leaf.size or 0)])
    return kept


def _terms(layout: Layout) -> list[tuple[Dim, int]]:
    """The terms of an axis and where each begins; a layout of several factors is one term that is no leaf."""
    if len(layout) != 1:
        return [(Dim(size_of(layout)), 0)] if layout else []
    found: list[tuple[Dim, int]] = []
    start = 0
    waiting = [find(layout[0])]
    while waiting:
        dim = find(waiting.pop())
        if dim.terms:
            waiting.extend(reversed(dim.terms))
        else:
            found.append((dim, start))
            start += dim.size or 0
    return found


def _places(found: Dimensions) -> dict[Dim, list[Place]]:
    """Where each dimension occurs."""
    places: dict[Dim, list[Place]] = {}
    for place, layouts in found.layouts.items():
        for leaf in dict.fromkeys(leaf for layout in layouts for leaf in leaves(layout)):
            places.setdefault(leaf, []).append(place)
    return places


def _edges(
    found: Dimensions, joint: Joint, cut: Op, places: Mapping[Dim, list[Place]], ends: set[Op]
) -> Iterable[Edge]:
    """The edges of one concatenation; none where no weight reads it."""
    layout = found.of(cut.output)[joint.axis]
    terms = _terms(layout)
    reasons = [_tied(found, dim, terms, places, cut, ends) for dim, _ in terms]
    whole = set(leaves(layout))
    uses = [use for place in _uses(places, layout) if (use := _summing(found, place, whole)) is not None]
    name = joint.op.output.name
    for place, (source, start, size) in enumerate(zip(joint.sources, joint.starts, joint.sizes, strict=True)):
        ends_at = [first + (dim.size or 0) for dim, first in terms]
        touched = [at for at, (_, first) in enumerate(terms) if first < start + size and start < ends_at[at]]
        mine = dict(terms[at] for at in touched)
        readings = []
        for use in uses:
            columns = _columns(found, use, mine, range(start, start + size))
            if len(columns):
                readings.append(Reading(use.weight.name, use.contracted, columns))
        if uses:
            pin = next((reason for at in touched if (reason := reasons[at])), None)
            parameters = sum(_elements(found, at, mine, range(start, start + size)) for at in _uses(places, layout))
            yield Edge(f"{name}:{place}", name, source.name, place, start, size, tuple(readings), parameters, pin)


def _tied(
    found: Dimensions,
    dim: Dim,
    terms: Sequence[tuple[Dim, int]],
    places: Mapping[Dim, list[Place]],
    cut: Op,
    ends: set[Op],
) -> str | None:
    """Why indices of a term cannot go by themselves."""
    if not dim.is_leaf or dim not in places:
        return "what reads it regroups it"
    if dim.pin or dim.inexact:
        return dim.pin or dim.inexact
    if [one for one, _ in terms].count(dim) > 1:
        return "what reads it ties it to another part of the same concatenation"
    for place in places[dim]:
        maker = found.known.graph.producer(place) if isinstance(place, Value) else None
        if maker is None or maker is cut:
            continue
        if maker in ends:
            return f"it is handed on into {maker}"
        computed = [value for value in maker.inputs if found.known.constant(value) is None and value is not None]
        if computed and not any(dim in _leaves(found, value) for value in computed):
            return f"what reads it adds it to what {maker} makes"
    return None


def _leaves(found: Dimensions, value: Value) -> set[Dim]:
    return {leaf for layout in found.layouts.get(value, ()) for leaf in leaves(layout)}


def _uses(places: Mapping[Dim, list[Place]], layout: Layout) -> list[Use]:
    """Where constants have a part of an axis, each once."""
    some = dict.fromkeys(leaves(layout))
    return list(dict.fromkeys(place for leaf in some for place in places.get(leaf, ()) if isinstance(place, Use)))


def _summing(found: Dimensions, place: Use, some: set[Dim]) -> WeightUse | None:
    """How a weight sums over some of these dimensions; None where it does not."""
    use = weight_use(found.known, place.op)
    if use is None or use.port != place.port or use.groups != 1:
        return None
    return use if not some.isdisjoint(leaves(found.of(place)[use.contracted])) else None


def _columns(found: Dimensions, use: WeightUse, mine: Mapping[Dim, int], span: range) -> Indices:
    """The indices that a weight sums over which belong to a part of the joined axis."""
    layout = found.of(Use(use.op, use.port))[use.contracted]
    return np.flatnonzero(_belongs(layout, mine, span))


def _elements(found: Dimensions, place: Use, mine: Mapping[Dim, int], span: range) -> int:
    """Elements of a weight that go with a part of the joined axis."""
    layouts = found.of(place)
    sizes = [size_of(layout) or 0 for layout in layouts]
    stays = 1
    for layout, size in zip(layouts, sizes, strict=True):
        stays *= size - int(_belongs(layout, mine, span).sum()) if layout else 1
    whole = int(np.prod([size for size, layout in zip(sizes, layouts, strict=True) if layout], dtype=np.int64))
    tensor = found.known.constant(place.op.inputs[place.port])
    return whole - stays if tensor is not None and tensor.shape and tensor.dtype.is_float else 0


def _belongs(layout: Layout, mine: Mapping[Dim, int], span: range) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found = np.zeros(size_of(layout) or 1, bool)
    for leaf, start in mine.items():
        if leaf.is_leaf:
            owned = owners(layout, leaf)
            found |= (owned >= 0) & (owned + start >= span.start) & (owned + start < span.stop)
    return found
