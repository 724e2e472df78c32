"""`secateur run-pass`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen
from secateur.text import Plain


@dataclass(frozen=True)
class RunPassOptions:
    """Options of `run-pass`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    passes: Annotated[str, typer.Argument(metavar="PASS", help="One pass or several, as 'fold-batchnorm,prune'.")]
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the model after it goes.")] = None
    data: Annotated[str | None, typer.Option(help="Calibration data: .npz, .npy, or a folder of them.")] = None
    seed: Annotated[int, typer.Option(help="For what is drawn at random.")] = 0


def run_pass(options: RunPassOptions, screen: Screen) -> Answer:
    """Run passes, and nothing else, over a model, and print the text of what comes out."""
    from secateur.compression import compress
    from secateur.ir.files import check_writable

    if options.output is not None:
        check_writable(options.output)
    with screen.progress() as progress:
        result = compress(
            options.model, options.passes, options.data, seed=options.seed, clean=False, progress=progress
        )
    if options.output is not None:
        result.graph.save(options.output)
        screen.note(f"wrote {options.output}")
    for entry in result.report.run.entries:
        screen.note(f"{entry.text}: {entry.rewrites} rewrites")
    text = str(result.graph)
    return Answer(Plain(text, {**result.report.to_json(), "text": text}))
