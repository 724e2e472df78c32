"""`secateur print` and `secateur diff`: models as text."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen
from secateur.text import Plain


@dataclass(frozen=True)
class PrintOptions:
    """Options of `print`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]


@dataclass(frozen=True)
class DiffOptions:
    """Options of `diff`."""

    first: Annotated[Path, typer.Argument(metavar="A", help="An ONNX file.")]
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")]
    context: Annotated[int, typer.Option(min=0, help="Lines around each difference.")] = 3


def print_model(options: PrintOptions, screen: Screen) -> Answer:
    """Print a model as text: one line an op, weights as a hash."""
    from secateur.ir.onnx_read import load

    text = str(load(options.model))
    return Answer(Plain(text, {"model": str(options.model), "text": text}))


def diff(options: DiffOptions, screen: Screen) -> Answer:
    """Compare two models as text, like diff: exit code 1 if they differ, and the first difference in structure."""
    from secateur.ir.equal import first_difference
    from secateur.ir.onnx_read import load

    first, second = load(options.first), load(options.second)
    reason = first_difference(first, second)
    lines = list(
        difflib.unified_diff(
            str(first).splitlines(),
            str(second).splitlines(),
            str(options.first),
            str(options.second),
            n=options.context,
            lineterm="",
        )
    )
    equal = reason is None and not lines
    text = "\n".join(lines) + (f"\nfirst difference: {reason}" if reason is not None else "")
    document = {"equal": equal, "first_difference": reason, "diff": lines}
    return Answer(Plain(text.lstrip("\n"), document), code=0 if equal else 1)
