"""`secateur inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class InspectOptions:
    """Options of `inspect`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]


def inspect(options: InspectOptions, screen: Screen) -> Answer:
    """Show what is in a model: ops, sizes, MACs, and which weights are prunable, sparse or quantized, or why not."""
    from secateur.inspection import inspect

    return Answer(inspect(options.model))
