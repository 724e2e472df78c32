"""What the parser says of texts that are none: always a TextError with the place, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
from helpers.random_graphs import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph, Tensor, TensorType
from secateur.ir.build import add_constant
from secateur.ir.errors import TextError
from secateur.ir.text_parse import parse_graph
from secateur.ir.text_print import digests, print_graph

WRONG = [
    ("", 1, 1, "expected 'graph', found the end of the text"),
    ("opset x", 1, 8, "expected the version of an opset, found the end of the text"),
    ("opset 1.5\n", 1, 7, "expected the version of an opset, found '1.5'"),
    ("extra 0x123 graph() -> () {}", 1, 7, "expected bytes, such as 0x0a2b, found '0x123'"),
    ("graph() -> () {", 1, 16, "expected an op type, such as Conv, found the end of the text"),
    ("graph() -> () {}\nopset 1", 2, 8, "expected 'function'"),
    ("graph() -> () {} function f() -> () {} function f() -> () {}", 1, 40, "there already is a function ::f"),
    ("graph(%x, %x) -> () {}", 1, 11, "the graph already has a value 'x'"),
    ("graph(x) -> () {}", 1, 7, "expected a value, such as %x, found 'x'"),
    ("graph() -> (%y) {}", 1, 13, "expected a value that is defined above, found '%y'"),
    ("graph(%x: f33[1]) -> () {}", 1, 11, "expected an element type, such as f32, i8 or bf16, found 'f33'"),
    ("graph(%x: f32[-> () {}", 1, 15, "expected a size: a number, a name, or ?, found '->'"),
    ("graph(%x) -> () {\n  %y = Relu{%x}\n}", 2, 12, "expected '(', found '{'"),
    ("graph(%x) -> () {\n  %y = Relu(%z)\n}", 2, 13, "expected a value that is defined above, found '%z'"),
    ("graph(%x) -> () { %x = Relu(%x) }", 1, 19, "already has a value"),
    ("graph(%x) -> () { %a, %a = Relu(%x) }", 1, 19, "two values of one name"),
    ("graph(%x) -> () { %y = Relu(%x) : f32[1], f32[1] }", 1, 41, "expected an op type, such as Conv, found ','"),
    ("graph(%x) -> () { %y = Relu(%x) {a = [1, 2.0]} }", 1, 39, "expected items of one kind in a list"),
    ("graph(%x) -> () { %y = Relu(%x) {a = 1, a = 2} }", 1, 41, "expected each attribute once"),
    ("graph(%x) -> () { %y = Relu(%x) {a = } }", 1, 38, "expected the value of an attribute, found '}'"),
    ("graph(%x) -> () { %y = Relu(%x) {a = 9223372036854775808} }", 1, 38, "expected an integer of 64 bits"),
    ("graph(%x) -> () { %y = Relu(%x) {a = 1e39} }", 1, 38, "expected a number of 32 bits, found '1e39'"),
    ("graph(%x) -> () { %y = Relu(%x) {a = 0x10} }", 1, 38, "expected a decimal number"),
    ("graph(%x) -> () { %w = f32[2] [1.0] }", 1, 31, "expected 2 elements, found 1"),
    ("graph(%x) -> () { %w = f32[N] [1.0] }", 1, 24, "a shape of numbers"),
    ("graph(%x) -> () { %w = i4[2] [1, 8] }", 1, 30, "i4 cannot hold 8"),
    ("graph(%x) -> () { %w = u8[1] [-1] }", 1, 30, "u8 cannot hold -1"),
    ("graph(%x) -> () { %w = u8[1] [0x100] }", 1, 30, "u8 cannot hold 0x100"),
    ("graph(%x) -> () { %w = f16[1] [1e5] }", 1, 31, "f16 cannot hold 1e5"),
    ("graph(%x) -> () { %w = bool[1] [2] }", 1, 32, "bool cannot hold 2"),
    ("graph(%x) -> () { %w = i8[1] [1.5] }", 1, 31, "expected an element of type i8, found '1.5'"),
    ("graph(%x) -> () { %w = string[1] [1] }", 1, 35, "expected a string, found '1'"),
    ('graph(%x) -> () { %w = string[1] ["\\ud800"] }', 1, 35, "a string that stands for bytes"),
    ('graph(%x) -> () { doc "\\q" }', 1, 23, "expected an escape such as"),
    ('graph(%x) -> () { doc "\\U00110000" }', 1, 23, "expected an escape such as"),
    ('graph(%x) -> () { doc "open }', 1, 23, "found '\"'"),
    ("graph(%x) -> () { & }", 1, 19, "expected a name, a number or a string, found '&'"),
    ('graph(%"") -> () {}', 1, 7, "without a name"),
    ("graph(%x: " + "seq(" * 100 + ")" * 100 + ") -> () {}", 1, 271, "expected types nested at most 64 deep"),
    ("graph() -> () { T() {b = " * 100 + "graph() -> () {}", 1, 1606, "expected graphs nested at most 64 deep"),
]


@pytest.mark.parametrize(("text", "line", "column", "said"), WRONG)
def test_errors_say_where(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_graph(text)
    assert str(caught.value).startswith(f"line {line}, column {column}: ")
    assert said in str(caught.value)


def test_the_line_is_shown() -> None:
    with pytest.raises(TextError) as caught:
        parse_graph("graph(%x) -> () {\n  %y = Relu{%x}\n}")
    assert str(caught.value).splitlines()[1:] == ["    %y = Relu{%x}", "             ^"]


def elided() -> tuple[str, str, Tensor]:
    graph = Graph()
    value = add_constant(graph, "w", np.arange(20, dtype=np.float32))
    assert value.const is not None
    return print_graph(graph), value.const.digest, value.const


def test_a_missing_constant_is_named() -> None:
    text, digest, _ = elided()
    with pytest.raises(TextError, match=rf"the constant #{digest} f32\[20\] is not among those given"):
        parse_graph(text)


def test_a_constant_of_another_type_is_refused() -> None:
    text, digest, _ = elided()
    with pytest.raises(TextError, match=rf"given for #{digest} is Tensor\(f32\[19\]\), expected f32\[20\]"):
        parse_graph(text, {digest: Tensor(np.zeros(19, np.float32))})


def test_constants_may_come_from_a_function() -> None:
    text, digest, tensor = elided()
    asked = []

    def invent(found: str, kind: TensorType) -> Tensor:
        asked.append((found, kind))
        return Tensor(np.ones(20, np.float32))

    assert parse_graph(text, invent)["w"].const is not None
    assert asked == [(digest, TensorType(tensor.dtype, tensor.shape))]
    with pytest.raises(TextError, match="is not among those given"):
        parse_graph(text, lambda found, kind: None)


def test_spacing_and_comments_mean_nothing() -> None:
    tight = parse_graph("graph(%x)->(%y){%y=Relu(%x){a=1,}@n}")
    loose = parse_graph(
        "// first\n graph ( %x ) // inputs\n->\n(%y,)\r\n{\n\t%y = Relu ( %x, ) { a = 1 } @n // end\n}\n\n// last"
    )
    assert print_graph(tight) == print_graph(loose)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_text_parses_or_is_refused_with_its_place(seed: int) -> None:
    source = random.Random(seed)
    graph = random_graph(seed % 50, 4)
    text = print_graph(graph)
    for _ in range(source.randrange(1, 4)):
        at, until = source.randrange(len(text)), source.choice((0, 0, 1, 8))
        text = text[:at] + source.choice(["", *'"\\%@#{}[](),:=_ \n-.0x9fe']) + text[at + until :]
    try:
        parse_graph(text, digests(graph))
    except TextError as error:
        assert str(error).startswith("line ")


def test_hostile_spacing_takes_no_time() -> None:
    with pytest.raises(TextError, match="column 200006"):
        parse_graph("graph" + " " * 200_000 + "\x00")
