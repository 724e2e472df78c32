"""What TensorRT says while it parses and builds: rows, and the facts that can be read from them.

The wording is NVIDIA's and may change with any release, so every reader here gives "nothing found" rather than a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Message(NamedTuple):
    """One row of the log. `severity` is INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""

    severity: str
    text: str


@dataclass(frozen=True)
class Refusal:
    """One operator that TensorRT does not take: its parser's code, the operator, the node, and the reason in words.

    `inside` is the chain of functions and subgraph bodies, outermost first, in which the node lies.
    """

    code: str
    op_type: str
    node: str
    reason: str
    inside: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = f"{self.op_type} {self.node}".strip() or "the model"
        place = f" (inside {' / '.join(self.inside)})" if self.inside else ""
        return f"{name}{place}: {self.reason}"


@dataclass
class Recorder:
    """Keeps what one build says. Each build has its own; nothing is printed and nothing is global."""

    rows: list[Message] = field(default_factory=list)

    def log(self, severity: Any, text: str) -> None:
        """The `ILogger` callback."""
        self.rows.append(Message(severity.name, text))


_DRIVER = re.compile(r"cudaError(?:_t)? ?35\b|CUDA driver version is insufficient")
_NOISE = re.compile(r"The logger passed into create\w+ differs from one already registered")
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_SOURCE = re.compile(r"\s*In [\w:~<>()]+(?: \w+)? at \S+?:\d+\b")
_WRAPPED = re.compile(r"^(?:\[[^\]]*\] ?|[\w:]+: )?Error Code \d+: [\w ]+? ?\((?P<inner>.*)\)$", re.DOTALL)
_PLACE = re.compile(r"\[\w+\.(?:cpp|h)[^\]]*\] ?|^\w+\.cpp:\d+: ")
_ECHO = re.compile(r"While parsing node number|--- (?:Begin|End) node ---|ERROR: \S+ In function|Invalid Node - ")
_QUOTED = re.compile(r'^[^"]*&& "(?P<text>.+)"$')
_ASSERTION = re.compile(r"^Assertion failed: .*?: (?P<text>.+)$", re.DOTALL)
_INITIALIZER = re.compile(r".*Failed to import initializer: (?P<name>[^\n]*)$", re.DOTALL)
_EXTERNAL = re.compile(r"Failed to open file: |external weights offset/length out of range")
_FAILED_NODE = re.compile(r'While parsing node number (?P<index>\d+) \[(?P<op_type>[^\]]*?) -> "(?P<output>[^"]*)"')
_PARSED_NODE = re.compile(r"^Parsing node: (?P<node>.*) \[(?P<op_type>\w+)\]$", re.DOTALL)
_UINT8 = "Defaulting to INT8"
_MEMORY = re.compile(r"^(?:Total|Max) (?P<what>[A-Z][\w ]*?) Memory: (?P<bytes>\d+) bytes")


def clean(text: str) -> str:
    """Strips NVIDIA's source positions, error codes and wrappers; what the text says stays.

    "X::f: Error Code 4: API Usage Error (No input. In validate at /src/n.cpp:40)" -> "No input."
    """
    lines = [line for line in text.splitlines() if not _ECHO.match(line)]
    kept = [line for line in lines if not _DRIVER.search(line)] or lines
    return "; ".join(dict.fromkeys(filter(None, map(_clean_line, kept))))


def _clean_line(line: str) -> str:
    line = _SOURCE.sub("", line.strip())
    while wrapped := _WRAPPED.match(line):
        line = wrapped["inner"].strip()
    return _PLACE.sub("", line).strip()


def errors(rows: Iterable[Message]) -> tuple[str, ...]:
    """The error texts, cleaned, each once. That there is no CUDA driver is left out unless it is all there is."""
    texts = [row.text for row in rows if row.severity in _ERRORS and not _ECHO.search(row.text)]
    told = [text for text in texts if not _DRIVER.search(text)] or texts
    return tuple(dict.fromkeys(filter(None, map(clean, told))))


def warnings(rows: Iterable[Message]) -> tuple[str, ...]:
    """The warnings, cleaned, each once, without remarks on how this library holds its loggers."""
    texts = (row.text for row in rows if row.severity == "WARNING" and not _NOISE.search(row.text))
    return tuple(dict.fromkeys(filter(None, map(clean, texts))))


def sparsity_lines(rows: Iterable[Message]) -> tuple[str, ...]:
    """Every row in which the builder itself speaks of structured sparsity, verbatim."""
    return tuple(row.text for row in rows if row.text.startswith("(Sparsity)"))


def memory_figures(rows: Iterable[Message]) -> dict[str, int]:
    """Bytes by kind, as in {"host_persistent": 80, "scratch": 8202240, "activation": 8202240, "weights": 1572}."""
    matches = (_MEMORY.match(row.text) for row in rows if row.severity == "INFO")
    return {match["what"].lower().replace(" ", "_"): int(match["bytes"]) for match in matches if match}


def external_data_failures(rows: Iterable[Message]) -> tuple[str, ...]:
    """What the parser says of external data files that it could not open, or that end too early."""
    texts = (row.text for row in rows if row.severity in _ERRORS and _EXTERNAL.search(row.text))
    return tuple(dict.fromkeys(clean(text) for text in texts))


def refusals(parser: Any, rows: Sequence[Message]) -> tuple[Refusal, ...]:
    """All that the parser found wrong, and what it accepted only by changing its meaning (UINT8 taken for INT8)."""
    found = [_refusal(parser.get_error(index), rows) for index in range(parser.num_errors)]
    return tuple(dict.fromkeys([*found, *_retyped(rows)]))


def _refusal(error: Any, rows: Sequence[Message]) -> Refusal:
    initializer = _INITIALIZER.search(error.desc())
    if initializer:
        return Refusal(error.code().name, "initializer", initializer["name"], "its data type or its data is not taken")
    return Refusal(
        code=error.code().name,
        op_type=error.node_operator(),
        node=error.node_name() or _unnamed(error, rows),
        reason=_reason(error.desc(), error.code().name).removeprefix(f"{error.node_name()}: "),
        inside=tuple(error.local_function_stack()) if hasattr(error, "local_function_stack") else (),
    )


def _unnamed(error: Any, rows: Sequence[Message]) -> str:
    """A node without a name is known by its output, which only the log tells."""
    if error.node() < 0:
        return ""
    for row in rows:
        match = _FAILED_NODE.search(row.text)
        if match and match["op_type"] == error.node_operator() and int(match["index"]) == error.node():
            return f"-> {match['output']}"
    return f"#{error.node()}"


def _reason(description: str, code: str) -> str:
    reason = clean(description)
    if "Plugin not found" in reason:
        return "TensorRT has no such operator, and no plugin of that name is registered"
    for pattern in (_QUOTED, _ASSERTION):
        match = pattern.match(reason)
        if match:
            reason = match["text"]
    if reason in ("", "false"):
        return f"TensorRT does not support this operator ({code})"
    return reason


def _retyped(rows: Iterable[Message]) -> Iterable[Refusal]:
    node = op_type = ""
    for row in rows:
        parsed = _PARSED_NODE.match(row.text)
        if parsed:
            node, op_type = parsed["node"], parsed["op_type"]
        elif _UINT8 in row.text:
            reason = "its uint8 would be taken for int8, which clips the upper half of the range; quantize to int8"
            yield Refusal("UINT8_AS_INT8", op_type, node, reason)
