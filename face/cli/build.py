"""`secateur build`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen

if TYPE_CHECKING:
    from secateur.backends.tensorrt import Progress


_MOST_WARNINGS = 8


class Package(StrEnum):
    """NVIDIA's two packages."""

    RTX = "tensorrt-rtx"
    FULL = "tensorrt"


@dataclass(frozen=True)
class BuildCommandOptions:
    """Options of `build`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the engine goes.")]
    target: Annotated[Package, typer.Option(help="Which package builds; TensorRT-RTX needs no GPU.")] = Package.RTX
    compute_capability: Annotated[
        list[str], typer.Option(help="A GPU to build for, as 8.9; give several times, or several with commas.")
    ] = field(default_factory=list)
    shape: Annotated[
        list[str], typer.Option(help="NAME=SHAPE or NAME=MIN,OPT,MAX, as x=1x3x224x224,4x3x224x224,8x3x224x224.")
    ] = field(default_factory=list)
    sparse_weights: Annotated[
        bool, typer.Option("--sparse-weights", help="Let it take sparse kernels for weights that are 2:4.")
    ] = False


def build(options: BuildCommandOptions, screen: Screen) -> Answer:
    """Build a TensorRT engine."""
    from secateur.backends.tensorrt import Profile, parse_shape
    from secateur.building import build

    warned = _warn(options, screen)
    ranges = Profile(tuple(parse_shape(text) for text in options.shape)).ranges
    with screen.progress() as tell:

        def progress(step: Progress) -> None:
            tell("build", round(100 * step.fraction), 100)

        report = build(
            options.model,
            options.output,
            target=options.target.value,
            compute_capability=[name for text in options.compute_capability for name in text.split(",") if name],
            shapes={one.input: (one.min, one.opt, one.max) for one in ranges},
            sparse_weights=options.sparse_weights,
            progress=progress,
        )
    screen.note(f"wrote {options.output}")
    return Answer(report, extra={"lint": warned})


def _warn(options: BuildCommandOptions, screen: Screen) -> list[str]:
    """What the build would change without a word, said before it; what it refuses, it says itself."""
    from secateur.backends.tensorrt.lint import Severity
    from secateur.ir.errors import SecateurError
    from secateur.linting import lint

    target = ",".join([options.target.value, *options.compute_capability])
    try:
        found = lint(options.model, target=target).findings
    except SecateurError:
        return []  # the build says what is wrong with the file or the target
    changed = [str(one) for one in found if one.severity is Severity.CHANGED]
    for line in changed[:_MOST_WARNINGS]:
        screen.note(f"lint: {line}")
    if len(changed) > _MOST_WARNINGS:
        screen.note(f"lint: and {len(changed) - _MOST_WARNINGS} more; `secateur lint` lists them")
    return changed
