"""What a graph is made of, one facet at a time, so that two moments of it can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from secateur.ir import Attribute, Graph, Op, Tensor, Value
from secateur.passes.facets import NOTHING, Facet

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class Snapshot:
    """One moment of a graph. Holds on to its ops, values and tensors; comparing does not read equal tensors."""

    topology: tuple[Any, ...]
    facets: Mapping[Facet, Mapping[Any, Any]]

    @staticmethod
    def of(graph: Graph) -> Snapshot:
        """Takes stock of a graph, its bodies and its functions, in O(n)."""
        topology: list[Any] = []
        facets: dict[Facet, dict[Any, Any]] = {facet: {} for facet in Facet if facet is not Facet.TOPOLOGY}
        for key, whole in ((None, graph), *graph.functions.items()):
            topology.append(key)
            for part in whole.graphs():
                topology += _structure(part)
                facets[Facet.ATTRIBUTES][part] = (part.name, part.doc, dict(part.metadata), part.header)
                for value in part.values():
                    _take_value(value, facets)
                for op in part.ops():
                    _take_op(op, part, facets)
        return Snapshot(tuple(topology), facets)

    def moved(self, later: Snapshot) -> Facet:
        """The facets in which `later`, of the same graph, differs from this moment.

        All but the topology are compared on what is there in both; a new op that quantizes moves the scheme.
        """
        found = NOTHING if self.topology == later.topology else Facet.TOPOLOGY
        for facet, before in self.facets.items():
            after = later.facets[facet]
            if any(node in after and not _same(entry, after[node]) for node, entry in before.items()):
                found |= facet
        if later.facets[Facet.SCHEME].keys() - self.facets[Facet.SCHEME].keys():
            found |= Facet.SCHEME
        return found


def _structure(part: Graph) -> Iterator[Any]:
    yield from (part, part.inputs, part.outputs, frozenset(part.values()), len(part.ops()))
    for op in part.ops():
        yield from (op, op.key, op.overload, op.inputs, op.outputs)


def _take_value(value: Value, facets: Mapping[Facet, dict[Any, Any]]) -> None:
    facets[Facet.SHAPE][value] = getattr(value.type, "shape", None)
    facets[Facet.DTYPE][value] = getattr(value.type, "dtype", value.type)
    facets[Facet.ATTRIBUTES][value] = (value.name, value.doc, dict(value.metadata))
    if value.const is not None:
        facets[Facet.WEIGHTS][value] = value.const


def _take_op(op: Op, part: Graph, facets: Mapping[Facet, dict[Any, Any]]) -> None:
    said = {name: attribute for name, attribute in op.attributes.items() if not attribute.graphs()}
    facets[Facet.ATTRIBUTES][op] = (op.name, op.doc, dict(op.metadata), said)
    if op.op_type in _QUANTIZERS:
        facets[Facet.SCHEME][op] = (said, *(part.constant(value) for value in op.inputs[1:]))


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Attribute) and isinstance(other, Attribute):
        return one.kind is other.kind and one.reference == other.reference and _same(one.value, other.value)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.equals(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(item, other[name]) for name, item in one.items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other or one != one)
