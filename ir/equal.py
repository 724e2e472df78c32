"""Structural equality: whether two graphs are the same, and where they first differ."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.ir.graph import Graph
from secateur.ir.model import Header
from secateur.ir.node import Attribute, AttributeKind, Op, SparseTensor, Value
from secateur.ir.tensor import Tensor
from secateur.ir.text_lex import quote
from secateur.ir.text_print import attribute_text
from secateur.ir.text_tensors import tensor_text
from secateur.ir.text_types import type_text

_FLOATS = (AttributeKind.FLOAT, AttributeKind.FLOATS)
_GRAPHS = (AttributeKind.GRAPH, AttributeKind.GRAPHS)
_SPELLED = 8


def first_difference(a: Graph, b: Graph, *, names: bool = True) -> str | None:
    """Says where two graphs first differ, in the order of the ops of `a`; None where they are the same.

    The order of ops that don't depend on each other, of attributes and of opset imports means nothing; two ops that
    share a weight differ from two with a copy each. Tensors are equal when their bits are, FLOAT attributes when the
    32-bit floats are that ONNX keeps of them.

    Args:
        a: one graph.
        b: another one.
        names: False ignores the names of graphs, ops and values: these are matched from the outputs backwards, by
            position, and what no output needs by its order.
    """
    return _Comparison(names).models(a, b)


def equal(a: Graph, b: Graph, *, names: bool = True) -> bool:
    """True where `first_difference` finds none."""
    return first_difference(a, b, names=names) is None


def tensors_equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Same type, shape, bits and metadata, or both None."""
    if a is None or b is None:
        return a is b
    return a.equals(b) and a.metadata == b.metadata


def attributes_equal(a: Attribute, b: Attribute) -> bool:
    """Same kind, value, reference and doc; for attributes that hold no graph."""
    if a is b:
        return True
    if (a.kind, a.reference, a.doc) != (b.kind, b.reference, b.doc):
        return False
    if a.kind in _FLOATS:
        return attribute_text(a) == attribute_text(b)
    return _items_equal(a.value, b.value)


def _items_equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_items_equal, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return tensors_equal(a, b)
    if isinstance(a, SparseTensor) and isinstance(b, SparseTensor):
        return a.shape == b.shape and tensors_equal(a.values, b.values) and tensors_equal(a.indices, b.indices)
    return type(a) is type(b) and bool(a == b)


@dataclass
class _Index:
    """Where each value and op of a graph and its bodies belongs."""

    owner: dict[Value, Graph] = field(default_factory=dict)
    maker: dict[Value, tuple[Op, int]] = field(default_factory=dict)
    place: dict[Op | Value, int] = field(default_factory=dict)
    """Order of report: an op's own; a value's is that of the op that makes it or first reads it."""

    @staticmethod
    def of(root: Graph) -> _Index:
        index = _Index()
        for graph in root.graphs():
            for value in graph.values():
                index.owner[value] = graph
            for value in graph.inputs:
                index.place[value] = 0
            for op in graph.ops():
                place = index.place[op] = len(index.place) + 1
                for used in (*op.inputs, *op.outputs):
                    if used is not None:
                        index.place.setdefault(used, place)
                index.maker.update((value, (op, port)) for port, value in enumerate(op.outputs) if value is not None)
        return index


class _Comparison:
    def __init__(self, names: bool) -> None:
        self.names = names
        self.pairs: dict[Graph | Op | Value, Graph | Op | Value] = {}
        self.back: dict[Graph | Op | Value, Graph | Op | Value] = {}
        self.waiting: deque[tuple[Value, Value]] = deque()
        self.found: list[tuple[int, str]] = []
        self.place = 0

    # ---- whole models ----------------------------------------------------------------------------------------------

    def models(self, a: Graph, b: Graph) -> str | None:
        for different in _header_differences(a.header, b.header):
            return different
        if a.functions.keys() != b.functions.keys():
            only = sorted(a.functions.keys() ^ b.functions.keys())[0]
            return f"function {only.domain}::{only.name} is only in the {_side(only in a.functions)}"
        said = self.graph(a, b)
        if said is not None:
            return said
        for key, function in a.functions.items():
            inside = _Comparison(self.names).models(function, b.functions[key])
            if inside is not None:
                return f"function {key.domain}::{key.name}: {inside}"
        return None

    def graph(self, a: Graph, b: Graph) -> str | None:
        self.left, self.right = _Index.of(a), _Index.of(b)
        self.pair_graphs(a, b)
        self.spread()
        while not self.found and self.pair_leftovers():
            self.spread()
        details = sorted(self.pairs.items(), key=lambda pair: self.left.place.get(pair[0], 0))  # type: ignore[arg-type]
        limit, said = min(self.found, key=lambda found: found[0], default=(None, None))
        for mine, theirs in details:
            self.place = self.left.place.get(mine, 0)  # type: ignore[arg-type]
            if limit is not None and self.place > limit:
                break
            for detail in self.differences(mine, theirs):
                return detail
        return said

    def differ(self, said: str) -> None:
        self.found.append((self.place, said))

    # ---- matching --------------------------------------------------------------------------------------------------

    def pair(self, a: Graph | Op | Value, b: Graph | Op | Value) -> bool:
        """Notes that two things correspond; False where they are known to already. They must be free or a pair."""
        if a not in self.pairs and b not in self.back:
            self.pairs[a] = b
            self.back[b] = a
            return True
        if self.pairs.get(a) is not b:
            self.differ(f"{_title(a)} is used where the second has {_title(b)}, which is something else elsewhere")
        return False

    def pair_graphs(self, a: Graph, b: Graph) -> None:
        if not self.pair(a, b):
            return
        self.pair_ports(a, b)
        if not self.names:
            return
        for mine, theirs, index in ((a, b, self.left), (b, a, self.right)):
            for value in mine.values():
                other = theirs.get(value.name)
                if other is None:
                    maker = index.maker.get(value)
                    made = f", made by {maker[0].title}," if maker else ""
                    self.found.append((index.place.get(value, 0), f"{value!r}{made} is only in the {_side(mine is a)}"))
                elif mine is a:
                    self.waiting.append((value, other))

    def pair_ports(self, a: Graph | Op, b: Graph | Op) -> None:
        """Matches inputs and outputs by position; with names, only where those agree."""
        for what, mine, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
            if self.spelled(mine) != self.spelled(theirs):
                self.differ(f"{a.title} has {what} {_ports(mine)} against {_ports(theirs)}")
            else:
                pairs = zip(mine, theirs, strict=True)
                self.waiting.extend((x, y) for x, y in pairs if x is not None and y is not None)

    def spelled(self, values: Sequence[Value | None]) -> list[str | bool]:
        """What must agree of a list of ports: the names, or only which of them are left out."""
        return [value is None if value is None or not self.names else value.name for value in values]

    def spread(self) -> None:
        """Matches what makes the values that are matched, as far as it leads."""
        while self.waiting:
            a, b = self.waiting.popleft()
            self.place = self.left.place.get(a, 0)
            if self.pair(a, b):
                self.pair_origins(a, b)

    def pair_origins(self, a: Value, b: Value) -> None:
        owner, other = self.left.owner.get(a), self.right.owner.get(b)
        if owner is None or other is None:
            if a is not b and not (owner is other and a.name == b.name):
                self.differ(f"{a!r} is taken from outside, against {b!r}")
            return
        if self.pairs.get(owner) is not other:
            self.differ(f"{a!r} of {owner.title} is used where the second has {b!r} of {other.title}")
            return
        made, theirs = self.left.maker.get(a), self.right.maker.get(b)
        if made is None or theirs is None:
            if made is not theirs:
                self.differ(f"{a!r} is {_origin(a, made)}, against {_origin(b, theirs)}")
        elif made[1] != theirs[1]:
            self.differ(f"{a!r} is output {made[1]} of {made[0].title}, against output {theirs[1]}")
        else:
            self.pair_ops(made[0], theirs[0])

    def pair_ops(self, a: Op, b: Op) -> None:
        if not self.pair(a, b):
            return
        self.place = self.left.place[a]
        if (a.key, a.overload) != (b.key, b.overload):
            self.differ(f"{a.title} against {b.title}")
            return
        self.pair_ports(a, b)
        for name, attribute in a.attributes.items():
            other = b.attributes.get(name)
            if other is not None and attribute.kind is other.kind and attribute.kind in _GRAPHS:
                if len(attribute.graphs()) != len(other.graphs()):
                    self.differ(f"{a.title} attribute {name}: {len(attribute.graphs())} against {len(other.graphs())}")
                for body, twin in zip(attribute.graphs(), other.graphs(), strict=False):
                    self.pair_graphs(body, twin)

    def pair_leftovers(self) -> bool:
        """Matches ops whose results nobody needs, and constants that nobody reads; True where there were some."""
        for a, b in list(self.pairs.items()):
            if not isinstance(a, Graph) or not isinstance(b, Graph):
                continue
            mine = [op for op in a.ops() if op not in self.pairs and not _is_read(a, op)]
            theirs = [op for op in b.ops() if op not in self.back and not _is_read(b, op)]
            if self.pair_lists(mine, theirs, lambda op: next(iter(filter(None, op.outputs)), None), self.pair_ops):
                return True
            unread = [value for value in a.values() if value not in self.pairs and value not in self.left.maker]
            others = [value for value in b.values() if value not in self.back and value not in self.right.maker]
            if self.pair_lists(unread, others, lambda value: value, lambda x, y: self.waiting.append((x, y))):
                return True
        return False

    def pair_lists(
        self,
        mine: list[Any],
        theirs: list[Any],
        named: Callable[[Any], Value | None],
        pair: Callable[[Any, Any], None],
    ) -> bool:
        """Matches two lists by name, or by order; says so where one is longer."""

        def key(item: Any) -> tuple[str, ...]:
            value = named(item)
            if self.names or value is None:
                return ("" if value is None else value.name,)
            digest = "" if value.const is None else value.const.digest
            return (
                digest,
                type_text(value.type),
                value.doc,
                str(sorted(value.metadata.items())),
                str(self.origin(value)),
            )

        mine, theirs = sorted(mine, key=key), sorted(theirs, key=key)
        for x, y in zip(mine, theirs, strict=False):
            if self.names and key(x) != key(y):
                first = min(x, y, key=key)
                self.differ(f"{_title(first)} is only in the {_side(first is x)}")
                return True
            pair(x, y)
        if len(mine) != len(theirs):
            longer = max(mine, theirs, key=len)
            self.differ(f"{_title(longer[min(len(mine), len(theirs))])} is only in the {_side(longer is mine)}")
        return bool(mine or theirs)

    # ---- details ---------------------------------------------------------------------------------------------------

    def differences(self, a: Any, b: Any) -> Iterator[str]:
        """What differs between two things that correspond, beside what they are connected with."""
        where = _title(a)
        if self.names and a.name != b.name:
            yield f"{where} is named {quote(a.name)} against {quote(b.name)}"
        if a.doc != b.doc:
            yield f"{where} doc: {quote(a.doc)} against {quote(b.doc)}"
        if dict(a.metadata) != dict(b.metadata):
            yield from _entries(f"{where} metadata", a.metadata, b.metadata, quote)
        if isinstance(a, Op):
            yield from self.op_differences(a, b)
        elif isinstance(a, Value):
            yield from self.value_differences(a, b)

    def op_differences(self, a: Op, b: Op) -> Iterator[str]:
        if a.extra != b.extra:
            yield f"{a.title} extra: {a.extra.hex()} against {b.extra.hex()}"
        for name in sorted({*a.attributes, *b.attributes}):
            mine, theirs = a.attributes.get(name), b.attributes.get(name)
            if mine is None or theirs is None:
                yield f"{a.title} attribute {name}: {_attribute(mine)} against {_attribute(theirs)}"
            elif mine.kind in _GRAPHS and mine.value is not None and theirs.value is not None:
                if (mine.kind, mine.doc) != (theirs.kind, theirs.doc):
                    yield f"{a.title} attribute {name}: {_attribute(mine)} against {_attribute(theirs)}"
            elif not attributes_equal(mine, theirs):
                yield f"{a.title} attribute {name}: {_attribute(mine)} against {_attribute(theirs)}"

    def value_differences(self, a: Value, b: Value) -> Iterator[str]:
        if a.type != b.type:
            yield f"the type of {a!r}: {type_text(a.type)} against {type_text(b.type)}"
        if not tensors_equal(a.const, b.const):
            yield f"the constant {a!r}: {_tensor(a.const)} against {_tensor(b.const)}"
        if self.origin(a) != self.origin(b):
            yield f"the constant {a!r} comes from {a.node or 'an initializer'} against {b.node or 'an initializer'}"

    def origin(self, value: Value) -> Any:
        node = value.node
        return node and (node.name if self.names else "", node.doc, sorted(node.metadata.items()))


def _header_differences(a: Header, b: Header) -> Iterator[str]:
    for name in ("ir_version", "producer", "domain", "model_version", "doc", "metadata", "extra"):
        mine, theirs = getattr(a, name), getattr(b, name)
        if mine != theirs:
            yield f"header {name}: {mine!r} against {theirs!r}"
    if sorted(a.opsets) != sorted(b.opsets):
        yield f"header opsets: {dict(a.opsets)} against {dict(b.opsets)}"
    if [name for name, _ in a.parameters] != [name for name, _ in b.parameters]:
        yield f"parameters: {[name for name, _ in a.parameters]} against {[name for name, _ in b.parameters]}"
    for (name, mine), (_, theirs) in zip(a.parameters, b.parameters, strict=False):
        same = mine is theirs if mine is None or theirs is None else attributes_equal(mine, theirs)
        if not same:
            yield f"parameter {name}: {_attribute(mine)} against {_attribute(theirs)}"


def _entries(where: str, a: Mapping[str, str], b: Mapping[str, str], spell: Callable[[str], str]) -> Iterator[str]:
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            mine, theirs = (spell(side[key]) if key in side else "nothing" for side in (a, b))
            yield f"{where} {quote(key)}: {mine} against {theirs}"


def _is_read(graph: Graph, op: Op) -> bool:
    return any(value is not None and graph.is_used(value) for value in op.outputs)


def _title(item: Graph | Op | Value) -> str:
    return repr(item) if isinstance(item, Value) else item.title


def _side(is_first: bool) -> str:
    return "first" if is_first else "second"


def _origin(value: Value, made: tuple[Op, int] | None) -> str:
    if made is not None:
        return f"made by {made[0].title}"
    return f"the constant {_tensor(value.const)}" if value.const is not None else f"the input {value!r}"


def _ports(values: Iterable[Value | None]) -> str:
    return f"({', '.join('_' if value is None else repr(value) for value in values)})"


def _attribute(attribute: Attribute | None) -> str:
    return "nothing" if attribute is None else attribute_text(attribute, _SPELLED)


def _tensor(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else tensor_text(tensor, _SPELLED)
