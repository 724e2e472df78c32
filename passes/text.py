"""Passes as text: `prune{ratio=0.5,dims=channels},sparsify{pattern=2:4}`. Scanning, and options by their types."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from secateur.ir.errors import TextError

if TYPE_CHECKING:
    from secateur.passes.base import Pass

_BARE = re.compile(r"[^\s,{}\[\]=\"]+")
_PLAIN = re.compile(r"[A-Za-z0-9_.:+*/%-]+")


@dataclass(frozen=True)
class Word:
    """A bare word or a quoted string, and where it starts."""

    text: str
    at: int
    quoted: bool = False


@dataclass(frozen=True)
class Items:
    """A list in brackets."""

    items: tuple[Raw, ...]
    at: int


Raw: TypeAlias = Word | Items


@dataclass(frozen=True)
class Call:
    """One pass as written: its name, and its options as pairs of words and values."""

    name: Word
    options: tuple[tuple[Word, Raw], ...]


class Scanner:
    """Reads calls from a text; every error says line and column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def calls(self) -> Iterator[Call]:
        """All calls, separated by commas; an empty text has none.

        Raises:
            TextError: the text is no pipeline.
        """
        if self._peek() == "":
            return
        while True:
            name = self._word("a pass")
            yield Call(name, tuple(self._options()) if self._peek() == "{" else ())
            if self._peek() == "":
                return
            self._expect(",", "`,` or the end")

    def error(self, at: int, message: str, hint: str | None = None) -> TextError:
        """A TextError that shows the line, with a mark under the column."""
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        shown = self.text[start:].partition("\n")[0]
        mark = " " * (at - start) + "^"
        return TextError(f"line {line}, column {at - start + 1}: {message}\n  {shown}\n  {mark}", hint=hint)

    def _options(self) -> Iterator[tuple[Word, Raw]]:
        self._expect("{", "`{`")
        while self._peek() != "}":
            key = self._word("an option")
            self._expect("=", f"`=` after {key.text}")
            yield key, self._value()
            if self._peek() != "}":
                self._expect(",", "`,` or `}`")
        self._expect("}", "`}`")

    def _value(self) -> Raw:
        next_one = self._peek()
        if next_one == '"':
            return self._string()
        if next_one != "[":
            return self._word("a value")
        start = self.at
        self._expect("[", "`[`")
        items: list[Raw] = []
        while self._peek() != "]":
            items.append(self._value())
            if self._peek() != "]":
                self._expect(",", "`,` or `]`")
        self._expect("]", "`]`")
        return Items(tuple(items), start)

    def _string(self) -> Word:
        start = self.at
        try:
            text, self.at = json.JSONDecoder().raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            raise self.error(start, f"a string that does not end well ({error.msg})") from error
        return Word(text, start, quoted=True)

    def _word(self, what: str) -> Word:
        self._peek()
        found = _BARE.match(self.text, self.at)
        if found is None:
            raise self._unexpected(what)
        self.at = found.end()
        return Word(found.group(), found.start())

    def _peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _expect(self, wanted: str, what: str) -> None:
        if self._peek() != wanted:
            raise self._unexpected(what)
        self.at += 1

    def _unexpected(self, what: str) -> TextError:
        found = self.text[self.at : self.at + 1]
        return self.error(self.at, f"expected {what}, found {found!r}" if found else f"expected {what}, found the end")


def option_fields(kind: type[Pass]) -> dict[str, tuple[Field[Any], Any]]:
    """The options of a pass by the name that text has for them (`max-bytes` for `max_bytes`), with their types."""
    hints = get_type_hints(kind)
    return {field.name.replace("_", "-"): (field, hints[field.name]) for field in fields(kind) if field.init}


def read_value(raw: Raw, kind: Any) -> Any:
    """A written value as the Python value of a type.

    Raises:
        ValueError: it is no such value; the message says what was expected.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(raw, arguments)
    if origin is tuple:
        return _read_tuple(raw, arguments)
    if isinstance(raw, Items):
        raise ValueError(f"expected {describe(kind)}, found a list")
    if origin is Literal:
        return _choose(raw, {str(choice): choice for choice in arguments})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choose(raw, {str(member.value): member for member in kind})
    return _read_scalar(raw, kind)


def print_value(value: Any) -> str:
    """The canonical text of an option's value; `read_value` of the same type gives it back."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return print_value(value.value)
    if isinstance(value, tuple):
        return "[" + ",".join(print_value(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value != "none" else json.dumps(value)
    return repr(value)


def print_pass(one: Pass) -> str:
    """The canonical text of a pass: only the options that differ from their defaults, in the order of the fields."""
    shown = []
    for name, (field, kind) in option_fields(type(one)).items():
        value = getattr(one, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            shown.append(f"{name}={print_value(float(value) if kind is float else value)}")
    return f"{one.name}{{{','.join(shown)}}}" if shown else one.name


def describe(kind: Any) -> str:
    """A type as an error message names it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(part) for part in arguments)
    if origin is tuple:
        return "a list of " + describe(arguments[0]) if arguments[1:] == (...,) else f"a list of {len(arguments)}"
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "none"}
    return words.get(kind, str(kind))


def _read_union(raw: Raw, kinds: tuple[Any, ...]) -> Any:
    if isinstance(raw, Word) and raw.text == "none" and not raw.quoted and types.NoneType in kinds:
        return None
    reasons = []
    for kind in sorted((kind for kind in kinds if kind is not types.NoneType), key=lambda kind: kind is str):
        try:
            return read_value(raw, kind)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0] if len(reasons) == 1 else f"expected {describe(Union[kinds])}")  # noqa: UP007


def _read_tuple(raw: Raw, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    items = raw.items if isinstance(raw, Items) else (raw,)
    if kinds[1:] == (...,):
        return tuple(read_value(item, kinds[0]) for item in items)
    if len(items) != len(kinds):
        raise ValueError(f"expected a list of {len(kinds)}, found {len(items)}")
    return tuple(read_value(item, kind) for item, kind in zip(items, kinds, strict=True))


def _choose(word: Word, choices: dict[str, Any]) -> Any:
    if word.text not in choices:
        raise ValueError(f"expected one of {', '.join(choices)}, found {word.text!r}")
    return choices[word.text]


def _read_scalar(word: Word, kind: Any) -> Any:
    if kind is str:
        return word.text
    if kind is bool:
        return _choose(word, {"true": True, "false": False})
    if kind not in (int, float):
        raise TypeError(f"options of type {kind} have no text")
    try:
        return kind(word.text)
    except ValueError as error:
        raise ValueError(f"expected {describe(kind)}, found {word.text!r}") from error
