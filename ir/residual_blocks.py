"""Residual branches as blocks: what each is, what goes with it, and why some cannot go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property

from secateur.ir.dims.algebra import expand, size_of
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.residual import Branch, Sums, sum_rules
from secateur.ir.rules.cost import cost
from secateur.ir.rules.known import Known
from secateur.ir.rules.mixing import Mixing, is_spread, mixing_rules
from secateur.ir.types import DataType, TensorType


class Part(Enum):
    """What a block is, by what it computes."""

    ATTENTION = "attention"
    """Multiplies activations with each other."""
    FFN = "ffn"
    """Linear maps of each position by itself, and what is pointwise between them; experts too."""
    CONVOLUTIONS = "convolutions"
    """Linear maps over neighbouring positions."""
    RECURRENT = "recurrent"
    """A recurrent layer."""
    LAYER = "layer"
    """A run of attention and feed-forward blocks."""


@dataclass(frozen=True, eq=False)
class Removable:
    """A block with one way in and one way out on a residual trunk, and what goes when it goes.

    Attributes:
        name: the value that the branch ends with; of a layer, its exit. Unique in a graph.
        part: what it is.
        entry: what it reads, and what its exit becomes.
        exit: the sum (with its norm where one op computes both and the next block reads only that).
        axis: of entry and exit, the one that indexes channels.
        terms: the values to be taken out of sums; empty where the exit is to be replaced by the entry (a layer whose
            sums are followed by norms).
        ops: those that are needed for nothing else, in the order of the graph.
        parameters: weight elements that only these ops read.
        macs: multiply-accumulates of these ops.
        pin: why it cannot be taken out; None where it can.
        branches: what it is made of, as `secateur.ir.residual` found it.
    """

    name: str
    part: Part
    entry: Value
    exit: Value
    axis: int
    terms: tuple[Value, ...]
    ops: tuple[Op, ...] = field(repr=False)
    parameters: int
    macs: int
    pin: str | None
    branches: tuple[Branch, ...] = field(repr=False)

    def holds(self, other: Removable) -> bool:
        """True where another block goes with this one."""
        own = {branch.term for branch in self.branches}
        return self is not other and all(one.total in self._inside or one.term in own for one in other.branches)

    @cached_property
    def _inside(self) -> frozenset[Op]:
        return frozenset().union(*(branch.ops for branch in self.branches))


class Blocks:
    """Finds the blocks of a graph (`secateur.ir.removable` is the way in)."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.graph: Graph = known.graph
        self.sums = Sums(self.graph)
        self.macs = cost(known).macs
        self._dimensions: Dimensions | None = None

    def branches(self) -> list[tuple[Branch, Part]]:
        """The branches that have a linear map, and what they are, in the order of the sums that they belong to."""
        found = []
        for branch in self.sums.branches():
            part = self.part(branch)
            if part is not None and self._is_float(branch.trunk):
                found.append((branch, part))
        nested = _nested([branch for branch, _ in found], self.sums)
        return [(branch, part) for branch, part in found if branch in nested]

    def part(self, branch: Branch) -> Part | None:
        """What a branch computes; None where nothing in it mixes."""
        kinds = {self._kind(branch, op) for op in branch.inside} - {None}
        order = (Part.ATTENTION, Part.RECURRENT, Part.CONVOLUTIONS, Part.FFN)
        return next((part for part in order if part in kinds), None)

    def block(self, branch: Branch, part: Part, beside: Iterable[Branch]) -> Removable:
        """One branch as a block; `beside` are the other branches of its sum."""
        goes = self.dying([branch])
        reason = self._shapes(branch) or self.escape([branch], goes, beside) or self._fused(branch.total)
        return replace(self.made(part, [branch], (branch.term,), exit_of(branch), goes), pin=reason)

    def made(
        self, part: Part, branches: Sequence[Branch], terms: tuple[Value, ...], end: Value, goes: Collection[Op]
    ) -> Removable:
        """A block with what it is worth."""
        norms = {one.total for one in branches if (rule := sum_rules.get(one.total)) and rule.normalized is not None}
        goes = set(goes) - (norms if terms else set())  # a sum with a norm goes on as the norm
        ops = tuple(sorted(goes, key=self.sums.order.__getitem__))
        parameters = sum(self._parameters(value, goes) for value in dict.fromkeys(_constants(ops)))
        macs = sum(self.macs.get(op, 0) for op in ops)
        entry, axis = branches[0].trunk, self._axis(branches)
        name = terms[0].name if len(terms) == 1 else end.name
        return Removable(name, part, entry, end, axis, terms, ops, parameters, macs, None, tuple(branches))

    def dying(self, branches: Sequence[Branch], end: Op | None = None) -> set[Op]:
        """The ops that nothing needs without these branches: their terms, or all up to the op that makes their end."""
        terms = {branch.term for branch in branches}
        dead = {op for term in terms for op in self.graph.consumers(term)} if end is None else {end}
        kept = {branches[0].trunk, *self.sums.outputs}
        kept.update(term for op in {one.total for one in branches} for term in self.sums.terms(op) if end is None)
        waiting = [value for op in dead for value in op.inputs if value is not None and value not in kept - terms]
        while waiting:
            op = self.graph.producer(waiting.pop())
            if op is None or op in dead:
                continue
            made = [value for value in op.outputs if value is not None]
            if all(value not in kept - terms and dead.issuperset(self.graph.consumers(value)) for value in made):
                dead.add(op)
                waiting.extend(self.graph.nx.pred[op])  # type: ignore[arg-type]  # an op's predecessors are values
        return dead

    def escape(self, branches: Sequence[Branch], goes: Collection[Op], beside: Iterable[Branch] = ()) -> str | None:
        """Why not all of some branches would go: what is read elsewhere, and by whom; None where it would.

        What the branches `beside` read too may stay, and so may what costs nothing.
        """
        shared = {op for branch in beside for op in branch.inside}
        inside = {op for branch in branches for op in branch.inside}
        stay = [op for branch in branches for op in branch.inside if op not in goes and op not in shared]
        if any(mixing_rules.get(op) is not None or any(map(_is_weight, _constants([op]))) for op in stay):
            for value in (value for op in stay for value in op.outputs if value is not None):
                if reason := self._elsewhere(value, inside | set(goes)):
                    return f"{value.name!r}, made inside of it, {reason}"
        for branch in branches:
            if branch.term in self.sums.outputs or len(self.graph.uses(branch.term)) != 1:
                reason = self._elsewhere(branch.term, {branch.total}) or f"is read twice by {branch.total}"
                return f"{branch.term.name!r}, with which it ends, {reason}"
        return None

    def axes(self, value: Value) -> list[object] | None:
        """The sizes of a value, those that are not known as symbols or dimensions; None where the rank is not known."""
        shape = self.known.shape(value)
        if shape is not None:
            return list(shape)
        if self._dimensions is None:
            self._dimensions = dimensions(self.known)  # it knows more operators than shape inference does
        layouts = self._dimensions.layouts.get(value)
        if not layouts:
            return None
        return [size if (size := size_of(layout)) is not None else tuple(expand(layout)) for layout in layouts]

    def _kind(self, branch: Branch, op: Op) -> Part | None:
        if op.bodies():
            inner = (one for body in op.bodies() for part in body.graphs() for one in part.ops())
            return Part.FFN if any(mixing_rules.get(one) for one in inner) else None
        rule = mixing_rules.get(op)
        if rule is None:
            return None
        operands = [value for port in rule.ports(op) if (value := op.input(port)) is not None]
        if branch.data.isdisjoint(operands):
            return None
        if rule.kind is Mixing.CONVOLUTION:
            return Part.CONVOLUTIONS if is_spread(self.known, op) else Part.FFN
        if rule.kind is Mixing.PRODUCT:
            activations = [one for one in operands if one in self.sums.dynamic and one not in branch.chosen]
            return Part.ATTENTION if len(activations) > 1 else Part.FFN
        fixed = {Mixing.ATTENTION: Part.ATTENTION, Mixing.RECURRENCE: Part.RECURRENT, Mixing.EXPERTS: Part.FFN}
        return fixed[rule.kind]

    def _shapes(self, branch: Branch) -> str | None:
        """Why the sum may have another shape than its trunk; None where it has the same."""
        before, after = self.axes(branch.trunk), self.axes(branch.term)
        if before is None or after is None:
            unknown = branch.trunk if before is None else branch.term
            return f"the shape of {unknown.name!r} is not known"
        longer: list[object] = [1] * (len(before) - len(after))
        grows = len(after) > len(before) or any(
            other not in (1, mine) and (mine == 1 or isinstance(other, int))
            for mine, other in zip(before, longer + after, strict=True)
        )
        return f"its exit is larger than its entry: {_sizes(before)} + {_sizes(after)}" if grows else None

    def _elsewhere(self, value: Value, here: Collection[Op]) -> str | None:
        """Who else needs a value."""
        if value in self.sums.outputs:
            return "is an output of the model"
        return next((f"is read by {op}, too" for op in self.graph.consumers(value) if op not in here), None)

    def _fused(self, total: Op) -> str | None:
        """Why an op that adds and normalizes cannot go on without adding."""
        rule = sum_rules.get(total)
        if rule is None or rule.normalized is None:
            return None
        extra = [value for port, value in enumerate(total.outputs) if port not in (rule.normalized, rule.result)]
        if any(value is not None and self.graph.is_used(value) for value in extra):
            return f"{total} hands out its statistics"
        opset = self.graph.root.header.opset() or 0
        if total.op_type == "SkipLayerNormalization" and opset < 17:
            return f"{total} would become a LayerNormalization, which opset {opset} does not have (17 does)"
        return None

    def _is_float(self, value: Value) -> bool:
        kind = self.known.types.get(value, value.type)
        return not isinstance(kind, TensorType) or kind.dtype.is_float or kind.dtype is DataType.UNDEFINED

    def _parameters(self, value: Value, goes: Collection[Op]) -> int:
        alone = all(op in goes for op in self.graph.consumers(value)) and value not in self.sums.outputs
        return value.const.size if alone and value.const is not None and _is_weight(value) else 0

    def _axis(self, branches: Sequence[Branch]) -> int:
        """Convolutions over values of the trunk's rank have channels on axis 1, everything else on the last."""
        rank = len(self.axes(branches[0].trunk) or [1])
        for op in (op for branch in branches for op in branch.inside):
            rule = mixing_rules.get(op)
            if rule is not None and rule.kind is Mixing.CONVOLUTION and self.known.rank(op.input(0)) == rank:
                return 1
        return rank - 1


def is_composite(block: Removable, among: Iterable[Removable]) -> bool:
    """True for a block in which others lie."""
    return any(block.holds(other) for other in among)


def exit_of(branch: Branch) -> Value:
    """The value that a sum is read as: itself where somebody reads it, else its norm."""
    rule = sum_rules.get(branch.total)
    assert rule is not None
    for port in (rule.result, rule.normalized):
        value = branch.total.outputs[port] if port is not None and port < len(branch.total.outputs) else None
        if value is not None:
            return value
    return branch.total.output


def _nested(branches: Sequence[Branch], sums: Sums) -> set[Branch]:
    """The branches that lie apart or inside of each other; of two that cross, one is none.

    Attention adds a mask to scores that depend, through the layers before, on that same mask. It gives itself away by
    an earlier sum with something that does not depend on it; other than that, what spans more is none.
    """
    kept: list[Branch] = []
    for branch in sorted(branches, key=lambda one: (sums.is_added(one), len(one.inside))):
        if not any(
            (branch.total in other.ops and branch.trunk not in other.data)
            or (other.total in branch.ops and other.trunk not in branch.data)
            for other in kept
        ):
            kept.append(branch)
    return set(kept)


def _is_weight(value: Value) -> bool:
    tensor = value.const
    return tensor is not None and bool(tensor.shape) and (tensor.dtype.is_float or tensor.dtype.bits <= 8)


def _constants(ops: Iterable[Op]) -> Iterator[Value]:
    return (value for op in ops for value in op.inputs if value is not None and value.const is not None)


def _sizes(axes: Sequence[object]) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int | str) else '?' for size in axes)}]"
