"""`secateur groups`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class GroupsOptions:
    """Options of `groups`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    all: Annotated[bool, typer.Option("--all", help="List kernels and positions in space, too.")] = False


def groups(options: GroupsOptions, screen: Screen) -> Answer:
    """Show what can be removed of a model, or why not: groups of units, residual blocks, edges into concatenations."""
    from secateur.grouping import group_report

    return Answer(group_report(options.model, everything=options.all))
