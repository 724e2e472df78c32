"""`secateur sparsity`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class SparsityOptions:
    """Options of `sparsity`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file, made by whomever.")]
    pattern: Annotated[str, typer.Option(help="N:M, of any M neighbours at most N are not zero.")] = "2:4"
    fail_unless_sparse: Annotated[
        bool,
        typer.Option(
            "--fail-unless-sparse",
            help="Exit with 1 unless every weight has the pattern that it fits and for which sparse kernels exist.",
        ),
    ] = False


def sparsity(options: SparsityOptions, screen: Screen) -> Answer:
    """Check which weights are 2:4 (or N:M) along the axis that is summed over, and say why others are not."""
    from secateur.sparsity import sparsity_report

    report = sparsity_report(options.model, pattern=options.pattern)
    return Answer(report, code=1 if options.fail_unless_sparse and not report.is_sparse else 0)
