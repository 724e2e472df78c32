"""Types in the text form, both ways: `f32[N, 64, ?]`, `seq(i64[...])`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from secateur.ir.text_lex import Token, Tokens, quote, word
from secateur.ir.types import (
    DataType,
    Dim,
    MapType,
    OpaqueType,
    OptionalType,
    SequenceType,
    SparseTensorType,
    TensorType,
    ValueType,
)

_DEEPEST = 64


def type_text(kind: ValueType | None) -> str:
    """`f32[N, 64, ?]`, `seq(i64[...])`, `_` where nothing is known; denotations follow in angle brackets."""
    if kind is None:
        return "_"
    denotations = [kind.denotation] if kind.denotation else []
    if isinstance(kind, TensorType):
        text = _dense_text(kind)
        if kind.dim_denotations:
            denotations = [kind.denotation, *kind.dim_denotations]
    elif isinstance(kind, SparseTensorType):
        text = f"sparse({_dense_text(kind)})"
    elif isinstance(kind, MapType):
        text = f"map({kind.key.short}, {type_text(kind.element)})"
    elif isinstance(kind, OpaqueType):
        text = f"opaque({quote(kind.domain)}, {quote(kind.name)})"
    else:
        text = f"{'seq' if isinstance(kind, SequenceType) else 'optional'}({type_text(kind.element)})"
    return text + (f"<{', '.join(map(quote, denotations))}>" if denotations else "")


def _dense_text(kind: TensorType | SparseTensorType) -> str:
    if kind.shape is None:
        return f"{kind.dtype.short}[...]"
    return f"{kind.dtype.short}[{', '.join(map(_dim_text, kind.shape))}]"


def _dim_text(dim: Dim) -> str:
    return "?" if dim is None else word(dim) if isinstance(dim, str) else str(dim)


def parse_type(tokens: Tokens, depth: int = 0) -> ValueType | None:
    """The inverse of `type_text`."""
    if depth > _DEEPEST:
        raise tokens.error(f"types nested at most {_DEEPEST} deep")
    start = tokens.peek()
    name = tokens.of_kind("word", "a type, such as f32[1, N] or _").text
    if name == "_":
        return None
    if name == "sparse":
        tokens.expect("(")
        dense = parse_dense(tokens, tokens.of_kind("word", "an element type"))
        tokens.expect(")")
        return SparseTensorType(dense.dtype, dense.shape, *_parse_denotations(tokens)[:1])
    if name in ("seq", "optional"):
        tokens.expect("(")
        element = parse_type(tokens, depth + 1)
        tokens.expect(")")
        kind = SequenceType if name == "seq" else OptionalType
        return kind(element, *_parse_denotations(tokens)[:1])
    if name == "map":
        tokens.expect("(")
        key = parse_dtype(tokens, tokens.of_kind("word", "an element type"))
        tokens.expect(",")
        element = parse_type(tokens, depth + 1)
        tokens.expect(")")
        return MapType(key, element, *_parse_denotations(tokens)[:1])
    if name == "opaque":
        tokens.expect("(")
        domain = tokens.string("the domain of an opaque type")
        tokens.expect(",")
        opaque = tokens.string("the name of an opaque type")
        tokens.expect(")")
        return OpaqueType(domain, opaque, *_parse_denotations(tokens)[:1])
    dense = parse_dense(tokens, start)
    denotation, *dims = _parse_denotations(tokens) or [""]
    return TensorType(dense.dtype, dense.shape, denotation, tuple(dims))


def parse_dtype(tokens: Tokens, token: Token) -> DataType:
    """An element type by its short name."""
    try:
        return DataType.from_short(token.text)
    except KeyError:
        raise tokens.error("an element type, such as f32, i8 or bf16", token) from None


def parse_dense(tokens: Tokens, start: Token) -> TensorType:
    """`f32[2, N]` or `f32[...]`, whose element type has been taken already."""
    dtype = parse_dtype(tokens, start)
    tokens.expect("[")
    if tokens.take("..."):
        tokens.expect("]")
        return TensorType(dtype, None)
    return TensorType(dtype, tuple(separated(tokens, "]", _parse_dim)))


def _parse_dim(tokens: Tokens) -> Dim:
    if tokens.take("?"):
        return None
    if tokens.peek().kind == "number":
        return tokens.integer("a size")
    return tokens.word("a size: a number, a name, or ?")


def _parse_denotations(tokens: Tokens) -> list[str]:
    return list(separated(tokens, ">", lambda tokens: tokens.string("a denotation"))) if tokens.take("<") else []


def separated(tokens: Tokens, closing: str, parse: Callable[[Tokens], Any]) -> Iterator[Any]:
    """Items between commas (one may follow the last), up to the closing mark, which is taken."""
    while not tokens.take(closing):
        yield parse(tokens)
        if not tokens.take(","):
            tokens.expect(closing)
            return
