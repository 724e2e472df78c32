"""`secateur lint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class LintOptions:
    """Options of `lint`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    target: Annotated[
        str, typer.Option(help="Package and compute capabilities, as tensorrt-rtx,8.9 or tensorrt-rtx,8.6,12.0.")
    ] = "tensorrt-rtx"
    shape: Annotated[
        list[str], typer.Option(help="NAME=SHAPE or NAME=MIN,OPT,MAX, as `build` takes; checked against the model.")
    ] = field(default_factory=list)


def lint(options: LintOptions, screen: Screen) -> Answer:
    """Say what TensorRT would refuse or change, without building: exit code 1 if there is such."""
    from secateur.backends.tensorrt import parse_shape
    from secateur.linting import lint

    ranges = [parse_shape(text) for text in options.shape]
    report = lint(
        options.model,
        target=options.target,
        shapes={one.input: (one.min, one.opt, one.max) for one in ranges},
    )
    return Answer(report, code=0 if report.is_clean else 1)
