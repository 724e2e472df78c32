"""A graph as text that people read and `text_parse` reads back: one line an op, producers first.

    ir_version 10
    opset 20
    producer "pytorch" "2.13.0"

    graph @main_graph(%x: f32[N, 3, 32, 32]) -> (%y) {
      %conv1.weight = f32[16, 3, 3, 3] #8f2b51f0c1a9d3e4  // |max| 0.3307
      %conv1.bias = f32[16] [0.25, -0.5, …]
      %relu = Relu(%x) @/relu/Relu : f32[N, 3, 32, 32]
      %y = Conv(%relu, %conv1.weight, %conv1.bias) {pads = [1, 1, 1, 1]} @/conv1/Conv : f32[N, 16, 32, 32]
    }

`%` marks values, `@` names of ops and graphs, `$` a function's attributes; `_` is an optional port left out or a type
that is not known. A constant stands before its first reader. After the op come its attributes by name, its own name,
`doc` and `meta`; after `:` the types of its outputs, each with the value's `doc` and `meta`. Nothing depends on how the
graph came to be as it is: a clone, and what the text parses to, print the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.ir.attribute_kinds import SINGULAR, mismatch
from secateur.ir.errors import GraphError
from secateur.ir.graph import Graph
from secateur.ir.model import Header
from secateur.ir.node import Attribute, AttributeKind, Op, SparseTensor, Value
from secateur.ir.schemes import Scheme
from secateur.ir.tensor import Tensor
from secateur.ir.text_lex import quote, sigil, word
from secateur.ir.text_tensors import is_spelled, pairs_text, summary, tensor_text
from secateur.ir.text_types import type_text
from secateur.ir.types import TensorType

_WIDEST = 110
_SHOWN = 160


def print_graph(graph: Graph, *, elide: int = 16, notes: bool = True) -> str:
    """The text form of a model, a function or a body.

    Args:
        graph: anything that was built; one that `verify` refuses prints too, as far as it can be told.
        elide: constants with more elements than this are written as `#digest` (see `digests`), with their largest
            magnitude and share of zeros as a comment; so are strings that are long for so few.
        notes: False leaves out docs and metadata, which exporters fill with pages; such a text parses to a graph
            without them.
    """
    return _Printer(elide, notes).model(graph)


def digests(graph: Graph) -> dict[str, Tensor]:
    """Every tensor of a model by its digest, for `parse_graph`: weights, attributes, bodies and functions."""
    found: dict[str, Tensor] = {}
    for root in (graph, *graph.functions.values()):
        for part in root.graphs():
            found.update((value.const.digest, value.const) for value in part.values() if value.const is not None)
            for op in part.ops():
                found.update((tensor.digest, tensor) for tensor in _attribute_tensors(op.attributes.values()))
        defaults = (default for _, default in root.header.parameters if default is not None)
        found.update((tensor.digest, tensor) for tensor in _attribute_tensors(defaults))
    return found


def excerpt(graph: Graph, node: Op | Value | None, lines: int = 10) -> str:
    """The lines of one graph around an op or a value, which is marked; bodies are folded, weights not read."""
    printer = _Printer(elide=8, notes=False, folded=True)
    nodes = list(printer.statements(graph))
    if isinstance(node, Value) and node not in nodes:
        node = graph.producer(node) or next(iter(graph.consumers(node)), None)
    middle = nodes.index(node) if node in nodes else 0
    first = max(0, min(middle - lines // 2, len(nodes) - lines))
    shown = []
    for at in nodes[first : first + lines]:
        text = printer.op(at) if isinstance(at, Op) else printer.declaration(at)
        shown.append(("> " if at is node else "  ") + (text if len(text) <= _SHOWN else text[: _SHOWN - 2] + " …"))
    return "\n".join(shown)


def attribute_text(attribute: Attribute, elide: int = 16) -> str:
    """The value of an attribute as the text form spells it; bodies are folded."""
    return _Printer(elide, folded=True).attribute(attribute)


def _attribute_tensors(attributes: Iterable[Attribute]) -> Iterator[Tensor]:
    for attribute in attributes:
        for item in attribute.value if isinstance(attribute.value, tuple) else (attribute.value,):
            if isinstance(item, Tensor):
                yield item
            elif isinstance(item, SparseTensor):
                yield from (item.values, item.indices)


@dataclass(frozen=True)
class _Printer:
    elide: int
    notes: bool = True
    folded: bool = False

    # ---- the model -------------------------------------------------------------------------------------------------

    def model(self, graph: Graph) -> str:
        if graph.is_body:
            return self.block(graph, "graph") + "\n"
        parts = [*self.header(graph.header, is_model=True), "", self.block(graph, "graph")]
        for key, function in sorted(graph.functions.items()):
            called = self.called(key.domain, key.name, key.overload)
            parts += ["", *self.header(function.header, is_model=False)]
            parts.append(self.block(function, f"function {called}", key.name))
        return "\n".join(parts) + "\n"

    def header(self, header: Header, *, is_model: bool) -> Iterator[str]:
        if is_model or header.ir_version != Header().ir_version:
            yield f"ir_version {header.ir_version}"
        for domain, version in header.opsets:
            yield f"opset {word(domain)} {version}" if domain else f"opset {version}"
        if header.producer != ("", ""):
            yield "producer " + " ".join(map(quote, header.producer))
        if header.domain:
            yield f"domain {quote(header.domain)}"
        if header.model_version:
            yield f"model_version {header.model_version}"
        yield from self.described(header.doc, header.metadata)
        if header.extra:
            yield f"extra 0x{header.extra.hex()}"
        for name, default in header.parameters:
            yield f"parameter {word(name)}" + (f" = {self.attribute(default)}" if default is not None else "")

    def described(self, doc: str, metadata: Iterable[tuple[str, str]]) -> Iterator[str]:
        if self.notes and doc:
            yield f"doc {quote(doc)}"
        if self.notes:
            yield from (f"metadata {quote(key)} {quote(text)}" for key, text in metadata)

    # ---- a graph ---------------------------------------------------------------------------------------------------

    def block(self, graph: Graph, opening: str, usual_name: str = "") -> str:
        opening += (sigil(" @", graph.name) if graph.name != usual_name else "") + "("
        inputs = [self.declaration(value) for value in graph.inputs]
        closing = f") -> ({self.names(graph.outputs)}) {{"
        line = opening + ", ".join(inputs) + closing
        if len(line) > _WIDEST and inputs:
            line = opening + "".join(f"\n    {text}," for text in inputs) + "\n" + closing
        statements = [*self.described(graph.doc, sorted(graph.metadata.items()))]
        for node in self.statements(graph):
            if isinstance(node, Op):
                scheme = Scheme.of(graph, node)
                statements.append(self.op(node) + ("" if scheme is None else f"  // {scheme}"))
            else:
                statements.append(self.declaration(node) + self.comment(node))
        if not statements:
            return line + "}"
        return "\n".join([line, *("  " + text.replace("\n", "\n  ") for text in statements), "}"])

    def statements(self, graph: Graph) -> Iterator[Op | Value]:
        """What stands in the block, in order: ops, each after the constants that it is the first to read."""
        ops = _ops(graph)
        written: set[Value] = {*graph.inputs, *(value for op in ops for value in op.outputs if value is not None)}
        declared = [value for value in graph.values() if value.const is None and value not in written]
        yield from sorted(declared, key=_name)
        written.update(declared)
        for op in ops:
            for value in _reads(op):
                if value not in written and value in graph:
                    written.add(value)
                    yield value
            yield op
        yield from sorted((value for value in graph.values() if value not in written), key=_name)

    def declaration(self, value: Value) -> str:
        """An input, a constant, or a value that nothing else tells of."""
        text, kind = sigil("%", value.name), self.kind(value)
        if value.const is None:
            return f"{text}: {kind}" if kind else text
        node, made = value.node, self.tensor(value.const)
        if node is not None:
            made = f"Constant {made}{sigil(' @', node.name) if node.name else ''}{self.note(node.doc, node.metadata)}"
        return f"{text} = {made} : {kind}" if kind else f"{text} = {made}"

    def comment(self, value: Value) -> str:
        if value.const is None or is_spelled(value.const, self.elide):
            return ""
        told = summary(value.const)
        return f"  // {told}" if told else ""

    def kind(self, value: Value) -> str:
        """The type where it doesn't follow from the constant, with the value's notes; empty where there are neither."""
        follows = None if value.const is None else TensorType(value.const.dtype, value.const.shape)
        text = "_" if value.type == follows else type_text(value.type)
        notes = self.note(value.doc, value.metadata)
        return text + notes if notes or text != "_" else ""

    def note(self, doc: str, metadata: Mapping[str, str]) -> str:
        text = f" doc {quote(doc)}" if self.notes and doc else ""
        return f"{text} meta {pairs_text(sorted(metadata.items()))}" if self.notes and metadata else text

    def names(self, values: Iterable[Value | None]) -> str:
        return ", ".join(["_" if value is None else sigil("%", value.name) for value in values])

    # ---- an op -----------------------------------------------------------------------------------------------------

    def op(self, op: Op) -> str:
        made = f"{self.names(op.outputs)} = " if op.outputs else ""
        text = f"{made}{self.called(op.domain, op.op_type, op.overload)}({self.names(op.inputs)})"
        text += self.attributes(op) + (sigil(" @", op.name) if op.name else "") + self.note(op.doc, op.metadata)
        if op.extra:
            text += f" extra 0x{op.extra.hex()}"
        kinds = ["" if value is None else self.kind(value) for value in op.outputs]
        return f"{text} : {', '.join(kind or '_' for kind in kinds)}" if any(kinds) else text

    def called(self, domain: str, op_type: str, overload: str) -> str:
        return (f"{word(domain)}::" if domain else "") + word(op_type) + (f":{word(overload)}" if overload else "")

    def attributes(self, op: Op) -> str:
        if not op.attributes:
            return ""
        found = sorted(op.attributes.items(), key=lambda item: (bool(_holds_graphs(item[1])), item[0]))
        texts = [f"{word(name)} = {self.attribute(attribute)}" for name, attribute in found]
        if any("\n" in text for text in texts):
            return " {\n  " + ",\n".join(texts).replace("\n", "\n  ") + "\n}"
        return " {" + ", ".join(texts) + "}"

    def attribute(self, attribute: Attribute) -> str:
        doc = f" doc {quote(attribute.doc)}" if self.notes and attribute.doc else ""
        kind = attribute.kind.name.lower()
        if attribute.reference:
            return f"{kind} {sigil('$', attribute.reference)}{doc}"
        if mismatch(attribute) is not None:
            return f"!{attribute.value!r}{doc}"
        if attribute.value is None:
            return f"{kind} _{doc}"
        single = SINGULAR.get(attribute.kind)
        if single is None:
            return self.item(attribute.kind, attribute.value) + doc
        items = ", ".join([self.item(single, item) for item in attribute.value])
        return ("" if items or attribute.kind is AttributeKind.INTS else kind) + f"[{items}]{doc}"

    def item(self, kind: AttributeKind, item: Any) -> str:
        spell = _PLAIN.get(kind)
        if spell is not None:
            return spell(item)
        if kind is AttributeKind.TENSOR:
            return self.tensor(item)
        if kind is AttributeKind.SPARSE_TENSOR:
            return f"sparse({list(item.shape)}, {self.tensor(item.values)}, {self.tensor(item.indices)})"
        return f"{sigil('graph @', item.name)} {{…}}" if self.folded else self.block(item, "graph")

    def tensor(self, tensor: Tensor) -> str:
        if self.folded and not is_spelled(tensor, self.elide):
            return type_text(TensorType(tensor.dtype, tensor.shape)) + " #…"
        return tensor_text(tensor, self.elide)


def _ops(graph: Graph) -> list[Op]:
    """Producers first; where there is a cycle, in the order in which they were added."""
    try:
        return graph.ops()
    except GraphError:
        return [node for node in graph.nx if isinstance(node, Op)]


def _reads(op: Op) -> Iterator[Value]:
    """What an op and its bodies read, in the order in which the text names it."""
    yield from (value for value in op.inputs if value is not None)
    for _, attribute in sorted(op.attributes.items()) if op.attributes else ():
        for body in _holds_graphs(attribute):
            for inner in _ops(body):
                yield from _reads(inner)
            yield from body.outputs


def _holds_graphs(attribute: Attribute) -> tuple[Graph, ...]:
    is_graph = attribute.kind in (AttributeKind.GRAPH, AttributeKind.GRAPHS)
    return attribute.graphs() if is_graph and mismatch(attribute) is None else ()


def _name(value: Value) -> str:
    return value.name


def _float_text(number: float) -> str:
    """The shortest decimal that means the same 32-bit float, which is what ONNX keeps."""
    with np.errstate(over="ignore"):
        return str(np.float32(number))


_PLAIN: dict[AttributeKind, Callable[[Any], str]] = {
    AttributeKind.INT: str,
    AttributeKind.FLOAT: _float_text,
    AttributeKind.STRING: quote,
    AttributeKind.TYPE_PROTO: lambda kind: f"type {type_text(kind)}",
}
