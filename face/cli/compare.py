"""`secateur compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class CompareCommandOptions:
    """Options of `compare`."""

    model: Annotated[Path, typer.Argument(metavar="A", help="An ONNX file: the reference.")]
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one that takes the same inputs.")]
    data: Annotated[str, typer.Option(help="Data to run both on: .npz, .npy, or a folder of them.")]
    labels: Annotated[Path | None, typer.Option(help="An .npy file with the right class of each sample.")] = None
    inner: Annotated[
        bool, typer.Option("--inner", help="Also compare inner values; name the first whose error jumps.")
    ] = False
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch.")] = None
    limit: Annotated[int | None, typer.Option(help="How many samples to use.")] = None
    runner: Annotated[str, typer.Option(help="What computes outputs: onnxruntime, torch, torch:cuda.")] = "onnxruntime"
    engine: Annotated[
        Path | None, typer.Option(help="A TensorRT engine of B, judged in its place; needs an NVIDIA GPU.")
    ] = None
    repeats: Annotated[int, typer.Option(min=0, help="Timed runs of each; 0 for none.")] = 20
    threads: Annotated[int, typer.Option(min=1, help="Threads of the timed runs.")] = 1


def compare(options: CompareCommandOptions, screen: Screen) -> Answer:
    """Compare two models on data: output error, agreement, size, MACs, latency on onnxruntime."""
    from secateur.comparison import compare

    with screen.progress() as progress:
        report = compare(
            options.model,
            options.other,
            options.data,
            labels=options.labels,
            inner=options.inner,
            progress=progress,
            batch_size=options.batch_size,
            limit=options.limit,
            runner=options.runner,
            engine=options.engine,
            repeats=options.repeats,
            threads=options.threads,
        )
    return Answer(report)
