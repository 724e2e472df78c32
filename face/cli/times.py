"""`secateur times`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class TimesOptions:
    """Options of `times`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    formats: Annotated[list[str], typer.Option(help="fp16, bf16, int8 or fp8; give several times, or as a,b.")] = field(
        default_factory=lambda: ["fp16", "int8", "fp8"]
    )
    rows: Annotated[
        list[str], typer.Option(help="Vectors that each weight is multiplied with, as 1,16,256; the model's otherwise.")
    ] = field(default_factory=list)
    shape: Annotated[list[str], typer.Option(help="NAME=SHAPE of an input, as x=1x3x224x224; give several times.")] = (
        field(default_factory=list)
    )
    batch: Annotated[int | None, typer.Option(help="Size of first axes that no shape fixes; 1 by default.")] = None
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where the table goes; a cache that `advise --times measured` reads."),
    ] = None


def times(options: TimesOptions, screen: Screen) -> Answer:
    """Measure the model's matrix products on this machine's GPU by TensorRT: dense and 2:4, format by format."""
    from secateur.backends.tensorrt import parse_shape
    from secateur.measuring import measure_kernels

    shapes = [parse_shape(text) for text in options.shape]
    with screen.progress() as progress:
        found = measure_kernels(
            options.model,
            _words(options.formats),
            _numbers(options.rows),
            output=options.output,
            progress=progress,
            shapes={one.input: one.opt for one in shapes},
            batch=options.batch,
        )
    screen.note(f"wrote {found.file}")
    return Answer(found)


def _words(given: list[str]) -> list[str]:
    return [word for text in given for word in text.replace(",", " ").split()]


def _numbers(given: list[str]) -> list[int]:
    from secateur.cli.failures import Misuse

    try:
        return [int(word) for word in _words(given)]
    except ValueError:
        raise Misuse(f"expected numbers of rows, found {' '.join(given)}", hint="write --rows 1,16,256") from None
