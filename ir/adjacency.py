"""The networkx graph under a `Graph`: adjacency and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx

if TYPE_CHECKING:
    from networkx import DiGraph

    from secateur.ir.node import Op, Value

    _Adjacency = DiGraph[Op | Value]
else:
    _Adjacency = nx.DiGraph


class _NoAttributes(dict[str, Any]):
    """The one shared, empty attribute dict of every node and edge: data lives on the Op and Value objects."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("attributes live on Op and Value objects, not in networkx dicts")

    def update(self, *pairs: Any, **named: Any) -> None:
        """Refuses anything but nothing, which is what networkx itself passes."""
        if named or any(pairs):
            raise TypeError("attributes live on Op and Value objects, not in networkx dicts")

    def copy(self) -> _NoAttributes:
        """Itself: there is nothing in it to copy."""
        return self


_NO_ATTRIBUTES = _NoAttributes()


class Adjacency(_Adjacency):
    """A networkx DiGraph over Op and Value objects that refuses attributes, so that it stays lean."""

    def _shared(self) -> _NoAttributes:
        return _NO_ATTRIBUTES

    node_attr_dict_factory = _shared
    edge_attr_dict_factory = _shared
