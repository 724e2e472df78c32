"""What onnxruntime says when it refuses, in our words: which op, why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from secateur.ir.errors import BackendError

_LONGEST = 300

_PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        r'In Node, \("(?P<name>[^"]*)", (?P<op>[^,]*),',
        r"implementation for (?P<op>[^(\s]+)\(\d+\) node with name '(?P<name>[^']*)'",
        r"running (?P<op>\S+) node\. Name:'(?P<name>[^']*)'",
        r"Node \((?P<name>[^)]*)\) Op \((?P<op>[^)]*)\)",
        r"operator \((?P<op>[^)]*)\) in node \((?P<name>[^)]*)\)",
        r"of node \((?P<name>[^)]*)\)",
        r"Fatal error: (?P<op>[^(\s]+)\(-?\d+\) is not a registered",
    )
)
_NOISE = (
    (re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : "), ""),
    (re.compile(r"This is an invalid model\. "), ""),
    (re.compile(r"Non-zero status code returned while running .*? Status Message: "), ""),
    (re.compile(r"In Node, \(.*?\) : \(.*?\) -> \(.*?\) , Error "), ""),
    (re.compile(r"Node \([^)]*\) Op \([^)]*\) "), ""),
    # Source file, line and signature of the C++ function: "/onnxruntime_src/….cc:256 onnxruntime::Model::Model(…) ".
    (re.compile(r"/\S+\.(?:cc|h|cpp):\d+ (?:.*\)(?= [A-Za-z_]) )?"), ""),
    (re.compile(r"\b\w+\.(?:cc|h|cpp):\d+ "), ""),
    (re.compile(r"ONNX Runtime only \*guarantees\*.*?opset versions\. "), ""),
    (re.compile(r"The operator schemas .*? backward compatibility\. "), ""),
    (re.compile(r"Fatal error: "), ""),
    (re.compile(r"\s+"), " "),
)
_NEWER = re.compile(r"under development|max supported IR version")
_MISSING = re.compile(r"not a registered|No Op registered|NOT_IMPLEMENTED|Could not find an implementation")
_MEMORY = re.compile(r"bad_alloc|Failed to allocate memory|out of memory", re.IGNORECASE)


@contextmanager
def reported(failures: tuple[type[Exception], ...], doing: str, titles: Mapping[str, str], hint: str) -> Iterator[None]:
    """Turns what onnxruntime raises into one `BackendError`.

    Args:
        failures: the exceptions to turn.
        doing: what was tried: "prepare" or "run".
        titles: how errors are to call an op, by the name that it bears in the session, or by `domain:type`.
        hint: the remedy where the message itself suggests none.
    """
    try:
        yield
    except failures as error:
        text = str(error)
        op = _find_op(text, titles)
        what = f"onnxruntime cannot {doing} {op}" if op else f"onnxruntime cannot {doing} the graph"
        raise BackendError(f"{what}: {shorten(text)}", hint=_hint(text, hint)) from error


def _find_op(text: str, titles: Mapping[str, str]) -> str:
    for place in _PLACES:
        if match := place.search(text):
            found = match.groupdict()
            name, op_type = found.get("name") or "", found.get("op") or ""
            shown = op_type.replace(":", "::")
            return titles.get(name) or titles.get(op_type) or (f"{shown} {name!r}" if name else shown)
    return ""


def shorten(text: str) -> str:
    """The reason alone: without status codes, C++ signatures and what the caller says anyway."""
    for pattern, instead in _NOISE:
        text = pattern.sub(instead, text)
    text = text.strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _hint(text: str, otherwise: str) -> str:
    if _NEWER.search(text):
        return "pip install -U onnxruntime, or convert the model to an older opset or IR version"
    if _MISSING.search(text):
        return "onnxruntime has no CPU kernel for this op and its types: replace the op, or hand in another runner"
    if _MEMORY.search(text):
        return "give smaller batches, or fetch fewer values at a time"
    return otherwise
