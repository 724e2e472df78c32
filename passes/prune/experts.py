"""What calibration says of experts: how often each is chosen, what it gives, and how much of that is let through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.dims.algebra import find
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.branches import Branch
from secateur.ir.dims.groups import Group
from secateur.ir.dims.vanish import Fate
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams

Array: TypeAlias = NDArray[np.float64]

_ARRANGING = frozenset("Reshape Squeeze Unsqueeze Transpose Identity Cast Flatten Expand".split())


@dataclass(frozen=True)
class Share:
    """One product of what an expert gives and its share: the two values, with the same rows."""

    weighted: Value
    plain: Value


@dataclass(frozen=True)
class Mixture:
    """Where the shares of experts are to be seen.

    Attributes:
        apart: one for each expert, where each has ops of its own.
        together: one for all of them, a row for each choice, where weights are stacked;
        positions: which expert each of these rows is of.
    """

    size: int
    apart: tuple[Share, ...] = ()
    together: Share | None = None
    positions: Value | None = None

    @property
    def values(self) -> list[Value]:
        """All that is looked at."""
        shares = [*self.apart, *((self.together,) if self.together else ())]
        found = [value for share in shares for value in (share.weighted, share.plain)]
        return list(dict.fromkeys([*found, *((self.positions,) if self.positions else ())]))

    def ops(self, graph: Graph) -> list[Op]:
        """The ops that make these values."""
        makers = [graph.producer(value) for value in self.values]
        return list(dict.fromkeys(op for op in makers if op is not None))


@dataclass(frozen=True)
class Routing:
    """Sums over the tokens that an expert was chosen for.

    Attributes:
        count: [experts] how many tokens.
        weighted: [experts] sum of ||share * output||.
        plain: [experts] sum of ||output||.
    """

    count: Array
    weighted: Array
    plain: Array


def mixture_of(dimensions: Dimensions, group: Group) -> Mixture | None:
    """Where the shares of a group of experts are multiplied in; None where that is inside of a fused op."""
    graph = dimensions.known.graph
    branches = dimensions.branches.get(group.dim, ())
    if branches:
        shares = [_dying(graph, branch) for branch in branches]
        return Mixture(group.size, tuple(one for one in shares if one)) if all(shares) else None
    for op in graph.ops():
        if op.op_type == "TopK" and len(op.outputs) > 1 and _counts(dimensions, op, group):
            share = _product(dimensions, op, group)
            if share is not None:
                return Mixture(group.size, together=share, positions=op.outputs[1])
    return None


def watch(mixture: Mixture, streams: Streams, context: Context) -> Routing:
    """Runs the model as it is now, and counts.

    Raises:
        DataError: there is no data.
        BackendError: no runtime was given.
    """
    sums = np.zeros((3, mixture.size))
    part, names = streams.present, [value.name for value in mixture.values]
    with context.needed_runner("watching experts")(part.graph, inputs=part.inputs, outputs=names) as runner:
        for _, batch in part.walk():
            found = runner.run(batch.feeds)
            for expert, weighted, plain in _rows(mixture, found):
                chosen = weighted > 0
                rows = np.stack([np.ones(len(weighted)), weighted, plain])[:, chosen]
                for into, row in zip(sums, rows, strict=True):
                    into += batch.weight * np.bincount(expert[chosen], row, mixture.size)
    return Routing(*sums)


def _rows(mixture: Mixture, found: Mapping[str, NDArray[Any]]) -> Iterator[tuple[NDArray[np.int64], Array, Array]]:
    """(which expert, norm of what is let through, norm of what it gives) for each row."""

    def norms(value: Value) -> Array:
        array = found[value.name].astype(np.float64)
        rows = array.reshape(-1, array.shape[-1])
        return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows)))

    for index, share in enumerate(mixture.apart):
        weighted = norms(share.weighted)
        yield np.full(len(weighted), index), weighted, norms(share.plain)
    if mixture.together is not None and mixture.positions is not None:
        weighted, plain = norms(mixture.together.weighted), norms(mixture.together.plain)
        yield found[mixture.positions.name].reshape(-1).astype(np.int64), weighted, plain


def _dying(graph: Graph, branch: Branch) -> Share | None:
    """The last value of a branch, which is added to what the others give, as the product that it is."""
    trace = branch.trace
    for op in (*trace.same, *trace.fewer):
        gone = [value for value in op.inputs if value is not None and trace.fates.get(value) in (Fate.ZERO, Fate.EMPTY)]
        if gone:
            product = _arranged(graph, gone[-1])
            if product is None or product.op_type != "Mul":
                return None
            plain = [value for value in product.inputs if value is not None and _is_expert(graph, value, branch)]
            return Share(product.output, plain[0]) if plain else None
    return None


def _arranged(graph: Graph, value: Value) -> Op | None:
    """What makes the elements of a value, whatever is done to their order and shape afterwards."""
    maker = graph.producer(value)
    while maker is not None and maker.op_type in _ARRANGING:
        before = maker.inputs[0]
        maker = None if before is None else graph.producer(before)
    return maker


def _is_expert(graph: Graph, value: Value, branch: Branch) -> bool:
    """True where a value is made with weights of a branch: what an expert gives, and not its share."""
    inside, weights = set(branch.ops), set(branch.weights)
    waiting, seen = [graph.producer(value)], set[Op]()
    while waiting:
        op = waiting.pop()
        if op is None or op not in inside or op in seen:
            continue
        seen.add(op)
        if not weights.isdisjoint(one for one in op.inputs if one is not None):
            return True
        waiting.extend(graph.producer(one) for one in op.inputs if one is not None)
    return False


def _counts(dimensions: Dimensions, op: Op, group: Group) -> bool:
    """True where an op chooses along the dimension of a group."""
    data = op.inputs[0]
    layouts = dimensions.layouts.get(data) if data is not None else None
    axis: int = op.attribute("axis", -1)
    return layouts is not None and [find(dim) for dim in layouts[axis]] == [find(group.dim)]


def _product(dimensions: Dimensions, chooser: Op, group: Group) -> Share | None:
    """Where the shares that an op chose are multiplied with what the stacked weights of a group gave."""
    graph = dimensions.known.graph
    picked = {value for op in _pickers(dimensions, group) for value in op.outputs if value is not None}
    shared = {value for value in chooser.outputs[:1] if value is not None}
    for op in graph.ops():
        read = {value for value in op.inputs if value is not None}
        if op.op_type == "Mul" and read & shared and read & (picked - shared):
            (plain,) = [value for value in op.inputs if value is not None and value in picked - shared][:1]
            return Share(op.output, plain)
        for members in (picked, shared):
            if read & members and op is not chooser:
                members.update(value for value in op.outputs if value is not None)
    return None


def _pickers(dimensions: Dimensions, group: Group) -> list[Op]:
    """The ops that pick from the stacked weights of a group."""
    uses = [occurrence.use for occurrence in group.weights]
    return [use.op for use in uses if isinstance(use, Use) and use.op.op_type in ("Gather", "GatherND")]
