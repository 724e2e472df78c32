"""What a dimension is to a network, read off from the ops that it passes through: channels, heads, widths, neurons."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from secateur.ir.dims.algebra import Dim, leaves
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Layouts, Place, Use
from secateur.ir.dims.groups import Group
from secateur.ir.node import Op, Value


class Kind(Enum):
    """Kinds of dimension, as recipes call them."""

    CHANNELS = "channels"
    """Channels of convolutions inside a block."""
    HEADS = "heads"
    """Attention heads (key-value heads where queries share them), or queries within a head's group."""
    QUERY_KEY = "query-key"
    """Width of a head in queries and keys."""
    VALUE_OUTPUT = "value-output"
    """Width of a head in values and outputs."""
    NEURONS = "neurons"
    """Inner dimension of a pair of linear maps."""
    HIDDEN = "hidden"
    """A trunk that blocks read from and add to."""
    RECURRENT = "recurrent"
    """Hidden state of a recurrent layer."""
    EXPERTS = "experts"
    """Experts of a mixture, each with maps of its own."""


_PICKS = frozenset({"Gather", "GatherND"})
_STACKED = _PICKS | {"Einsum", "FusedMatMul", "MatMul", "MoE", "QMoE"}
"""Ops that read matrices, however many of them a weight has."""
_CONTRACTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "Einsum", "Gather"})


class Roles:
    """Which leaves take part in products of two activations, in convolutions, in additions of two activations."""

    def __init__(self, dimensions: Dimensions) -> None:
        self._dimensions = dimensions
        self.batched: set[Dim] = set()
        self.contracted: set[Dim] = set()
        self.columns: set[Dim] = set()
        self.added: set[Dim] = set()
        self.recurrent: set[Dim] = set()
        self._roots: dict[Value, frozenset[Value]] = {}
        for op in dimensions.known.graph.ops():
            if op not in dimensions.boundaries:
                self._read(op)

    def kind(self, group: Group) -> Kind:
        """The kind of a group: the first that fits, from the most particular."""
        dim = group.dim
        if dim in self._dimensions.experts:
            return Kind.EXPERTS
        if dim in self.recurrent:
            return Kind.RECURRENT
        for members, kind in (
            (self.batched, Kind.HEADS),
            (self.contracted, Kind.QUERY_KEY),
            (self.columns, Kind.VALUE_OUTPUT),
        ):
            if dim in members:
                return kind
        if dim in self.added:
            return Kind.HIDDEN
        layouts = self._dimensions.layouts
        if any(len(layouts[one.use]) > 2 and one.use.op.op_type not in _STACKED for one in group.weights):
            return Kind.CHANNELS
        return Kind.HIDDEN if group.inexact else Kind.NEURONS

    def _activation(self, op: Op, port: int) -> Layouts | None:
        value = op.input(port)
        if value is None or Use(op, port) in self._dimensions.layouts:
            return None
        maker = self._dimensions.known.graph.producer(value)
        is_weight = maker is not None and maker.op_type in _PICKS and Use(maker, 0) in self._dimensions.layouts
        return None if is_weight and op.op_type not in ("Add", "Sum") else self._place(value)

    def _place(self, place: Place) -> Layouts | None:
        return self._dimensions.layouts.get(place)

    def _read(self, op: Op) -> None:
        left, right = self._activation(op, 0), self._activation(op, 1)
        joins = self._trace(op)
        if op.op_type in ("LSTM", "GRU", "RNN"):
            self.recurrent.update(_free(layout for layout in self._place(op.output) or []))
        if left is None or right is None:
            return
        if op.op_type == "MatMul" and len(left) > 2 and len(right) > 2:
            self.batched.update(_free((*left[:-2], *right[:-2])))
            self.contracted.update(_free(left[-1:]))
            self.columns.update(_free(right[-1:]))
        elif op.op_type == "Attention":
            self._read_attention(op, left, right)
        elif op.op_type in ("Add", "Sum") and joins:
            self.added.update(set(_free(left)) & set(_free(right)))

    def _trace(self, op: Op) -> bool:
        """Notes which contractions an op's output comes from; true where it joins those of different ones.

        What adds branches, and what contracts, is a new source, so that the sets stay small.
        """
        read = [self._roots.get(value, frozenset()) for value in op.inputs if value is not None]
        sources = [roots for roots in read if roots]
        joins = op.op_type in ("Add", "Sum") and len(set(sources)) > 1
        contracts = op.op_type in _CONTRACTIONS
        for value in op.outputs:
            if value is not None:
                self._roots[value] = frozenset({value}) if joins or contracts else frozenset().union(*sources)
        return joins

    def _read_attention(self, op: Op, query: Layouts, key: Layouts) -> None:
        value = self._activation(op, 2) or []
        shared = set(_free(query[-1:])) & set(_free(key[-1:])) & set(_free(value[-1:]))
        self.batched.update(shared if len(query) == 3 else _free((query[1], key[1])))
        self.contracted.update(set(_free(query[-1:])) - self.batched)
        self.columns.update(set(_free(value[-1:])) - self.batched)


def _free(layouts: Iterable[Iterable[Dim]]) -> list[Dim]:
    return [leaf for layout in layouts for leaf in leaves(layout) if leaf.pin is None]
