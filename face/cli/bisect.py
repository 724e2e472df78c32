"""`secateur bisect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.failures import Misuse
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class BisectOptions:
    """Options of `bisect`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    recipe: Annotated[str, typer.Option(help="A recipe file (.yaml), or passes: 'prune{ratio=0.5},sparsify'.")]
    good_command: Annotated[
        str | None, typer.Option(help="A command that exits with 0 for a good model; {model} is the ONNX file.")
    ] = None
    data: Annotated[str | None, typer.Option(help="Calibration data: .npz, .npy, or a folder of them.")] = None
    max_error: Annotated[
        float | None, typer.Option(help="A model is good while its relative output error on the data is at most this.")
    ] = None


def bisect(options: BisectOptions, screen: Screen) -> Answer:
    """Find the pass, and the rewrite in it, that breaks a model: exit code 1 if there is one."""
    from secateur.bisection import bisect, by_command, by_error

    if (options.good_command is None) == (options.max_error is None):
        raise Misuse("expected either --good-command or --max-error", hint="say what a good model is, in one way")
    if options.good_command is not None:
        is_good = by_command(options.good_command)
    if options.max_error is not None:
        if options.data is None:
            raise Misuse("--max-error needs data to measure the error on", hint="give --data")
        is_good = by_error(options.model, options.data, options.max_error)
    screen.note("judging models …")
    verdict = bisect(options.model, options.recipe, is_good, options.data)
    return Answer(verdict, code=0 if verdict.culprit is None else 1)
