"""Reads the text form back into a graph; `text_print` says what it looks like."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from secateur.ir.attribute_kinds import SINGULAR
from secateur.ir.errors import GraphError
from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey, Header
from secateur.ir.node import NOTHING, Attribute, AttributeKind, ConstantNode, Op, SparseTensor, Value
from secateur.ir.tensor import Tensor
from secateur.ir.text_lex import Token, Tokens
from secateur.ir.text_tensors import FindConstant, parse_pairs, parse_tensor
from secateur.ir.text_types import parse_type, separated
from secateur.ir.types import TensorType

Constants: TypeAlias = Mapping[str, Tensor] | FindConstant

_DEEPEST = 64
_KINDS = {kind.name.lower(): kind for kind in AttributeKind}
_NONE: Mapping[str, Tensor] = {}


def parse_graph(text: str, constants: Constants = _NONE) -> Graph:
    """A model from its text form.

    Args:
        text: as `print_graph` writes it; spacing, line breaks and `//` comments mean nothing.
        constants: the tensors that the text elides, by digest (`digests` gives those of a graph); or a function of the
            digest and the type that the text says, which returns one, or None where it has none.

    Raises:
        TextError: line, column, what was expected and what stands there; or the constant that is missing. The graph
            is not verified: a text may describe one that `verify` refuses.
    """
    find: FindConstant = constants if callable(constants) else lambda digest, _: constants.get(digest)
    return _Parser(Tokens(text), find).model()


class _Parser:
    def __init__(self, tokens: Tokens, find: FindConstant) -> None:
        self.tokens = tokens
        self.find = find
        self.scopes: list[Graph] = []

    # ---- the model -------------------------------------------------------------------------------------------------

    def model(self) -> Graph:
        header = self.header()
        self.tokens.expect("graph")
        graph = self.graph(Graph(self.name(), header=header))
        while self.tokens.peek().kind != "end":
            header = self.header()
            start = self.tokens.expect("function")
            key = FunctionKey(*self.called())
            if key in graph.functions:
                raise self.tokens.fault(f"there already is a function {key.domain}::{key.name}", start)
            graph.functions[key] = self.graph(Graph(self.name(key.name), header=header))
        return graph

    def header(self) -> Header:
        """The lines before a graph or a function, in any order."""
        fields: dict[str, Any] = {"opsets": (), "parameters": (), "metadata": ()}
        while (read := self._HEADER.get(self.tokens.peek().text)) is not None:
            name = self.tokens.next().text
            found = read(self)
            if name in ("opset", "parameter"):
                fields[name + "s"] += (found,)
            elif name == "metadata":
                fields[name] += (found,)
            else:
                fields[name] = found
        return replace(Header(), **fields)

    def opset(self) -> tuple[str, int]:
        is_default = self.tokens.peek().kind == "number"
        domain = "" if is_default else self.tokens.word("the domain or the version of an opset")
        return domain, self.tokens.integer("the version of an opset")

    def parameter(self) -> tuple[str, Attribute | None]:
        name = self.tokens.word("the name of a parameter")
        return name, self.attribute() if self.tokens.take("=") else None

    def pair(self) -> tuple[str, str]:
        return self.tokens.string("a key"), self.tokens.string("the text of a key")

    def extra(self) -> bytes:
        token = self.tokens.of_kind("number", "bytes, such as 0x0a2b")
        if re.fullmatch("0x(?:[0-9a-f]{2})+", token.text) is None:
            raise self.tokens.error("bytes, such as 0x0a2b", token)
        return bytes.fromhex(token.text[2:])

    _HEADER: Mapping[str, Callable[[_Parser], Any]] = {
        "ir_version": lambda self: self.tokens.integer(),
        "opset": lambda self: self.opset(),
        "producer": lambda self: (self.tokens.string("a producer"), self.tokens.string("a producer's version")),
        "domain": lambda self: self.tokens.string("a domain"),
        "model_version": lambda self: self.tokens.integer(),
        "doc": lambda self: self.tokens.string(),
        "metadata": lambda self: self.pair(),
        "extra": lambda self: self.extra(),
        "parameter": lambda self: self.parameter(),
    }

    # ---- a graph ---------------------------------------------------------------------------------------------------

    def graph(self, graph: Graph) -> Graph:
        """The interface and the block of a graph whose name has been read."""
        tokens = self.tokens
        if len(self.scopes) >= _DEEPEST:
            raise tokens.error(f"graphs nested at most {_DEEPEST} deep")
        self.scopes.append(graph)
        tokens.expect("(")
        inputs = list(separated(tokens, ")", lambda tokens: self.declaration(graph, tokens.peek())))
        with self.refusals(tokens.peek()):
            graph.set_interface(inputs=inputs)
        tokens.expect("->")
        tokens.expect("(")
        outputs = list(separated(tokens, ")", lambda tokens: tokens.of_kind("value", "an output, such as %y")))
        tokens.expect("{")
        self.described(graph)
        while not tokens.take("}"):
            self.statement(graph)
        graph.set_interface(outputs=[self.value(token) for token in outputs])
        self.scopes.pop()
        return graph

    def described(self, graph: Graph) -> None:
        while self.tokens.peek().text in ("doc", "metadata") and self.tokens.peek(1).kind == "string":
            if self.tokens.next().text == "doc":
                graph.doc = self.tokens.string()
            else:
                graph.metadata.update([self.pair()])

    def statement(self, graph: Graph) -> None:
        """A constant (or another value that no op makes), or an op."""
        tokens = self.tokens
        start = tokens.peek()
        follows = tokens.peek(1).text
        is_declared = follows not in ("=", ",") or (follows == "=" and self.is_constant(2))
        if start.kind == "value" and is_declared:
            self.declaration(graph, start)
            return
        outputs: list[str | None] = []
        while start.kind == "value" or start.text == "_":
            outputs.append(None if tokens.take("_") else tokens.named("value", "an output, such as %y, or _"))
            if not tokens.take(","):
                tokens.expect("=")
                break
        self.op(graph, outputs, start)

    def is_constant(self, ahead: int) -> bool:
        """True where a tensor comes (`f32[…`) or a Constant node (`Constant f32[…`), not an op (`Conv(…`)."""
        tokens = self.tokens
        if tokens.peek(ahead).text == "Constant" and tokens.peek(ahead + 1).kind == "word":
            return True
        return tokens.peek(ahead).kind == "word" and tokens.peek(ahead + 1).text == "["

    def declaration(self, graph: Graph, start: Token) -> Value:
        """`%name[: type notes]` or `%name = [Constant] tensor [@node notes] [: type notes]`: an input or a constant."""
        tokens = self.tokens
        value = Value(tokens.named("value", "a value, such as %x"))
        if tokens.take("="):
            is_node = tokens.take("Constant")
            value.const = parse_tensor(tokens, self.find)
            value.node = ConstantNode(self.name(), *self.notes()) if is_node else None
        if tokens.take(":"):
            self.kind(value)
        if value.const is not None and value.type is None:
            value.type = TensorType(value.const.dtype, value.const.shape)
        with self.refusals(start):
            if graph.get(value.name) is not None:
                raise GraphError(f"{graph.title} already has a value {value.name!r}")
            return graph.add_value(value)

    def kind(self, value: Value) -> None:
        value.type = parse_type(self.tokens)
        value.doc, value.metadata = self.notes()

    def notes(self) -> tuple[str, Mapping[str, str]]:
        tokens = self.tokens
        doc = tokens.string() if tokens.peek(1).kind == "string" and tokens.take("doc") else ""
        metadata = dict(parse_pairs(tokens)) if tokens.peek(1).text == "{" and tokens.take("meta") else NOTHING
        return doc, metadata

    def name(self, usual: str = "") -> str:
        return self.tokens.named("name", "a name") if self.tokens.peek().kind == "name" else usual

    def value(self, token: Token) -> Value:
        """The value that a name means here: of this graph, or of the nearest one around it that has it."""
        name = self.tokens.unquoted(token, 1)
        for graph in reversed(self.scopes):
            if (found := graph.get(name)) is not None:
                return found
            if not graph.is_body:
                break
        raise self.tokens.error("a value that is defined above", token)

    @contextmanager
    def refusals(self, token: Token) -> Iterator[None]:
        """Turns what a graph refuses into an error at its place in the text."""
        try:
            yield
        except GraphError as error:
            raise self.tokens.fault(error.message, token) from None

    # ---- an op -----------------------------------------------------------------------------------------------------

    def op(self, graph: Graph, outputs: list[str | None], start: Token) -> None:
        tokens = self.tokens
        domain, op_type, overload = self.called()
        tokens.expect("(")
        inputs = tuple(separated(tokens, ")", self.operand))
        attributes = self.attributes()
        name = self.name()
        doc, metadata = self.notes()
        extra = self.extra() if tokens.peek(1).kind == "number" and tokens.take("extra") else b""
        made = tuple(None if output is None else Value(output) for output in outputs)
        if tokens.take(":"):
            for port, value in enumerate(made):
                self.kind(value or Value("_"))
                if port < len(made) - 1:
                    tokens.expect(",")
        op = Op(op_type, inputs, made, attributes, domain, name, overload, doc, metadata, extra)
        with self.refusals(start):
            graph.add_op(op)

    def called(self) -> tuple[str, str, str]:
        """`[domain::]Type[:overload]`."""
        tokens = self.tokens
        domain, op_type = "", tokens.word("an op type, such as Conv")
        if tokens.take("::"):
            domain, op_type = op_type, tokens.word("an op type, such as Conv")
        return domain, op_type, tokens.word("an overload") if tokens.take(":") else ""

    def operand(self, tokens: Tokens) -> Value | None:
        return None if tokens.take("_") else self.value(tokens.of_kind("value", "an input, such as %x, or _"))

    def attributes(self) -> dict[str, Attribute]:
        tokens = self.tokens
        found: dict[str, Attribute] = {}

        def entry(tokens: Tokens) -> None:
            start = tokens.peek()
            name = tokens.word("the name of an attribute")
            if name in found:
                raise tokens.error("each attribute once", start)
            tokens.expect("=")
            found[name] = self.attribute()

        if tokens.take("{"):
            for _ in separated(tokens, "}", entry):
                pass
        return found

    def attribute(self) -> Attribute:
        """The value of an attribute, its kind told by how it is written."""
        tokens = self.tokens
        kind = _KINDS.get(tokens.peek().text)
        after = tokens.peek(1)
        value: Any = None
        reference = ""
        if kind is not None and after.kind == "parameter":
            tokens.next()
            reference = tokens.named("parameter", "a parameter, such as $alpha")
        elif kind in (AttributeKind.UNDEFINED, AttributeKind.TYPE_PROTO) and after.text == "_":
            tokens.next()
            tokens.next()
        elif kind in SINGULAR and after.text == "[":
            tokens.next()
            tokens.expect("[")
            tokens.expect("]")
            value = ()
        elif tokens.take("["):
            items = list(separated(tokens, "]", self.item))
            singles = {single for single, _ in items} or {AttributeKind.INT}
            if len(singles) > 1:
                raise tokens.error("items of one kind in a list", after)
            kind = AttributeKind[singles.pop().name + "S"]
            value = tuple(item for _, item in items)
        else:
            kind, value = self.item(tokens)
        doc = tokens.string() if tokens.peek(1).kind == "string" and tokens.take("doc") else ""
        return Attribute(kind or AttributeKind.UNDEFINED, value, reference, doc)

    def item(self, tokens: Tokens) -> tuple[AttributeKind, Any]:
        """One number, string, tensor, graph, sparse tensor or type."""
        token = tokens.peek()
        if token.kind == "string":
            return AttributeKind.STRING, tokens.string()
        if token.kind == "number":
            return self.number(token)
        if tokens.take("type"):
            return AttributeKind.TYPE_PROTO, parse_type(tokens)
        if tokens.take("graph"):
            return AttributeKind.GRAPH, self.graph(Graph(self.name(), body=True))
        if tokens.take("sparse"):
            return AttributeKind.SPARSE_TENSOR, self.sparse()
        if token.kind == "word" and tokens.peek(1).text == "[":
            return AttributeKind.TENSOR, parse_tensor(tokens, self.find)
        raise tokens.error("the value of an attribute")

    def number(self, token: Token) -> tuple[AttributeKind, int | float]:
        if re.fullmatch("[+-]?[0-9]+", token.text):
            number = self.tokens.integer()
            if not -(2**63) <= number < 2**63:
                raise self.tokens.error("an integer of 64 bits", token)
            return AttributeKind.INT, number
        if token.text.startswith("0x"):
            raise self.tokens.error("a decimal number", token)
        self.tokens.next()
        with np.errstate(over="ignore"):
            single = float(np.float32(float(token.text)))
        if math.isinf(single) and "inf" not in token.text:
            raise self.tokens.error("a number of 32 bits", token)
        return AttributeKind.FLOAT, single

    def sparse(self) -> SparseTensor:
        tokens = self.tokens
        tokens.expect("(")
        tokens.expect("[")
        shape = tuple(separated(tokens, "]", lambda tokens: tokens.integer("a size")))
        tokens.expect(",")
        values = parse_tensor(tokens, self.find)
        tokens.expect(",")
        indices = parse_tensor(tokens, self.find)
        tokens.expect(")")
        return SparseTensor(values, indices, shape)
