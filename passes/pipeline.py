"""Pipelines as text: what a recipe, the command line, a report and a manifest all say in the same words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from secateur.ir.errors import TextError
from secateur.passes.base import Pass
from secateur.passes.registry import find, suggest
from secateur.passes.text import Call, Raw, Scanner, Word, option_fields, read_value


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Passes from text: names, each with options in braces, separated by commas.

    `prune{ratio=0.5, dims=channels}, sparsify{pattern=2:4}, quantize{format=int8}`: values are bare words, strings in
    double quotes (as in JSON), or lists in brackets; white space and line breaks between them do not matter.

    Raises:
        TextError: says line and column: no pipeline, no such pass, no such option, or a value that does not fit.
    """
    scanner = Scanner(text)
    return tuple(_build(call, scanner) for call in scanner.calls())


def print_pipeline(passes: Iterable[Pass]) -> str:
    """The canonical text of a pipeline; `parse_pipeline` gives equal passes back."""
    return ",".join(str(one) for one in passes)


def make_pass(name: str, **options: Any) -> Pass:
    """A pass by name, with options as Python values.

    Raises:
        TextError: no such pass or option, or a value that does not fit.
    """
    kind = find(name)
    known = {field.name: field for field, _ in option_fields(kind).values()}
    for option in options:
        if option not in known:
            raise TextError(f"{name} has no option {option!r}", hint=suggest(option, known))
    try:
        return kind(**options)
    except ValueError as error:
        raise TextError(f"{name}: {error}") from error


def _build(call: Call, scanner: Scanner) -> Pass:
    try:
        kind = find(call.name.text)
    except TextError as error:
        raise scanner.error(call.name.at, error.message, error.hint) from error
    known = option_fields(kind)
    options: dict[str, Any] = {}
    for key, raw in call.options:
        field, hint = _look_up(key, known, kind, scanner)
        if field in options:
            raise scanner.error(key.at, f"{kind.name}: {key.text} is given twice")
        options[field] = _read(raw, hint, f"{kind.name}: {key.text}", scanner)
    try:
        return kind(**options)
    except ValueError as error:
        raise scanner.error(call.name.at, f"{kind.name}: {error}") from error


def _look_up(key: Word, known: dict[str, tuple[Any, Any]], kind: type[Pass], scanner: Scanner) -> tuple[str, Any]:
    found = known.get(key.text.replace("_", "-"))
    if found is None:
        raise scanner.error(key.at, f"{kind.name} has no option {key.text!r}", suggest(key.text, known))
    return found[0].name, found[1]


def _read(raw: Raw, hint: Any, where: str, scanner: Scanner) -> Any:
    try:
        return read_value(raw, hint)
    except ValueError as error:
        raise scanner.error(raw.at, f"{where}: {error}") from error
