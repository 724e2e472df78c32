"""`secateur advise`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.failures import Misuse
from secateur.cli.screen import Screen


@dataclass(frozen=True)
class AdviseOptions:
    """Options of `advise`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    sparsity: Annotated[
        bool, typer.Option("--sparsity", help="Which layers can take sparse kernels, and gain how much at most.")
    ] = False
    data: Annotated[
        str | None, typer.Option(help="Where to spend bits: measured on this data, .npz, .npy, or a folder of them.")
    ] = None
    limit: Annotated[int | None, typer.Option(help="How many samples to use.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch of the data.")] = None
    outputs: Annotated[int, typer.Option(min=1, help="Rows of each matrix that are looked at, at the most.")] = 128
    runner: Annotated[str, typer.Option(help="What runs the model: onnxruntime, torch, torch:cuda.")] = "onnxruntime"
    target: Annotated[
        str | None, typer.Option(help="A device: l4, a100, 8.9, a .toml or .json file, or key=value,…")
    ] = None
    format: Annotated[str, typer.Option(help="What runs: fp32, tf32, fp16, bf16, fp8, int8.")] = "fp16"
    shape: Annotated[list[str], typer.Option(help="NAME=SHAPE of an input, as x=1x3x224x224; give several times.")] = (
        field(default_factory=list)
    )
    batch: Annotated[int | None, typer.Option(help="Size of first axes that no shape fixes; 1 by default.")] = None
    least: Annotated[float, typer.Option(help="Layers that gain less than this at most stay dense.")] = 1.05
    times: Annotated[
        str | None,
        typer.Option(help="Measured kernels instead of the roofline: a file, or `measured`, by `secateur times` here."),
    ] = None


def advise(options: AdviseOptions, screen: Screen) -> Answer:
    """Say where to spend bits (--data), or what sparse kernels can gain on a device (--sparsity), before any work."""
    if options.sparsity and options.data is not None:
        raise Misuse("--sparsity and --data ask for two things", hint="give one of them")
    if options.sparsity:
        return _sparsity(options)
    if options.data is None:
        raise Misuse("expected what to advise on", hint="give --data FILE, or give --sparsity and --target")
    from secateur.spending import advise

    with screen.progress() as progress:
        found = advise(
            options.model,
            options.data,
            progress=progress,
            batch_size=options.batch_size,
            limit=options.limit,
            runner=options.runner,
            outputs=options.outputs,
        )
    return Answer(found)


def _sparsity(options: AdviseOptions) -> Answer:
    from secateur.advising import advise_sparsity
    from secateur.backends.tensorrt import parse_shape

    if options.target is None:
        raise Misuse("--sparsity needs a device", hint="give --target, for example --target l4")
    shapes = [parse_shape(text) for text in options.shape]
    advice = advise_sparsity(
        options.model,
        options.target,
        options.format,
        shapes={one.input: one.opt for one in shapes},
        batch=options.batch,
        least=options.least,
        times=options.times,
    )
    return Answer(advice)
