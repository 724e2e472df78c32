"""The words of the text form: how names and strings are quoted, and the tokens that a text falls into."""

from __future__ import annotations

import re
from typing import NamedTuple

from secateur.ir.errors import TextError

_BARE = r"[A-Za-z0-9_./\-]+(?::+[A-Za-z0-9_./\-]+)*"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_WORD = r"[A-Za-z_][A-Za-z0-9_.]*(?:-[A-Za-z0-9_.]+)*"
_TOKEN = re.compile(
    rf"""
    (?:\s|//[^\n]*)*+(?:
      (?P<value>%(?:{_BARE}|{_STRING}))
    | (?P<name>@(?:{_BARE}|{_STRING}))
    | (?P<parameter>\$(?:{_BARE}|{_STRING}))
    | (?P<string>{_STRING})
    | (?P<digest>\#[0-9a-f]{{16}}(?![\w.]))
    | (?P<number>[+-]?(?:0x[0-9a-f]+|[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|inf|nan)(?![\w.]))
    | (?P<word>{_WORD})
    | (?P<mark>->|::|\.\.\.|[(){{}}\[\]<>,:=?])
    | (?P<bad>.)
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r'\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(["\\nrt]))')
_PLAIN = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = {character: "\\" + letter for letter, character in _PLAIN.items()}
_IS_BARE = re.compile(_BARE).fullmatch
_IS_WORD = re.compile(_WORD).fullmatch

RESERVED = frozenset({"_", "inf", "nan", "true", "false", "doc", "meta", "metadata", "extra", "with", "type", "sparse"})
"""Words that mean something where a name may stand; as names they are quoted."""


def quote(text: str) -> str:
    """A string between double quotes on one line; whatever cannot be seen is escaped."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escape, text))}"'


def _escape(character: str) -> str:
    if character in _ESCAPED:
        return _ESCAPED[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def sigil(mark: str, name: str) -> str:
    """A name after its mark (`%` values, `@` ops and graphs, `$` parameters), quoted only where it must be."""
    return mark + (name if _IS_BARE(name) else quote(name))


def word(text: str) -> str:
    """An op type, a domain, an attribute's name or a symbolic size, quoted only where it must be."""
    return text if _IS_WORD(text) and text not in RESERVED else quote(text)


class Token(NamedTuple):
    """A piece of text as it stands there, what it is, and where it begins."""

    kind: str
    text: str
    start: int


class Tokens:
    """The tokens of a text, read from left to right with one look ahead (or more)."""

    def __init__(self, text: str) -> None:
        """Splits the text.

        Raises:
            TextError: something in it is no token.
        """
        self.text = text
        self._tokens: list[Token] = []
        self._next = 0
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup or ""
            self._tokens.append(Token(kind, found[kind], found.start(kind)))
            if kind == "bad":
                raise self.error("a name, a number or a string", self._tokens[-1])
            if kind == "end":
                break
        self._end = self._tokens[-1]

    def peek(self, ahead: int = 0) -> Token:
        """The next token, or one further ahead, without taking it; of kind `end` when there is none."""
        index = self._next + ahead
        return self._tokens[index] if index < len(self._tokens) else self._end

    def next(self) -> Token:
        """Takes the next token."""
        token = self.peek()
        self._next += 1
        return token

    def take(self, text: str) -> bool:
        """Takes the next token if it reads so."""
        found = self.peek().text == text and self.peek().kind != "end"
        self._next += found
        return found

    def expect(self, text: str) -> Token:
        """Takes a token that must read so."""
        if self.peek().text != text:
            raise self.error(f"{text!r}")
        return self.next()

    def of_kind(self, kind: str, expected: str) -> Token:
        """Takes a token that must be of a kind; `expected` says of what in the error."""
        if self.peek().kind != kind:
            raise self.error(f"{expected}")
        return self.next()

    def string(self, expected: str = "a string") -> str:
        """Takes a string and returns what it stands for."""
        return self.unquoted(self.of_kind("string", expected))

    def named(self, kind: str, expected: str) -> str:
        """Takes a name with its mark (`%`, `@`, `$`) and returns the name."""
        return self.unquoted(self.of_kind(kind, expected), 1)

    def word(self, expected: str) -> str:
        """Takes a word, bare or quoted, and returns it."""
        if self.peek().kind == "string":
            return self.string()
        return self.of_kind("word", expected).text

    def integer(self, expected: str = "an integer") -> int:
        """Takes a whole number that fits in 64 bits, signed or not."""
        token = self.of_kind("number", expected)
        if re.fullmatch(r"[+-]?[0-9]{1,20}", token.text) is None:
            raise self.error(f"{expected}", token)
        return int(token.text)

    def unquoted(self, token: Token, skip: int = 0) -> str:
        """What a name or a string stands for; `skip` leaves out its mark."""
        text = token.text[skip:]
        if not text.startswith('"'):
            return text
        text = text[1:-1]
        if "\\" not in text:
            return text
        for found in re.finditer(r"\\.", text):
            code = _ESCAPE.match(text, found.start())
            if code is None or (code[3] and int(code[3], 16) > 0x10FFFF):
                raise self.error(f"an escape such as \\n, \\x0a or \\u000a in {token.text}", token)
        return _ESCAPE.sub(_unescape, text)

    def error(self, expected: str, token: Token | None = None) -> TextError:
        """What was expected, what was found, and where."""
        token = token or self.peek()
        found = repr(token.text) if token.text else "the end of the text"
        return self.fault(f"expected {expected}, found {found}", token)

    def fault(self, message: str, token: Token) -> TextError:
        """An error with its line and column, and the line itself."""
        line = self.text.count("\n", 0, token.start) + 1
        begin = self.text.rfind("\n", 0, token.start) + 1
        end = self.text.find("\n", token.start)
        shown = self.text[begin : end if end >= 0 else len(self.text)]
        column = token.start - begin
        cut = max(0, column - 80)
        return TextError(
            f"line {line}, column {column + 1}: {message}\n  {shown[cut : cut + 160]}\n  {' ' * (column - cut)}^"
        )


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2] or found[3]
    return chr(int(code, 16)) if code else _PLAIN[found[4]]
