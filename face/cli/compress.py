"""`secateur compress`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import Answer
from secateur.cli.failures import Misuse
from secateur.cli.screen import Screen

if TYPE_CHECKING:
    from secateur.compression import Result


@dataclass(frozen=True)
class CompressOptions:
    """Options of `compress`."""

    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.")]
    recipe: Annotated[str, typer.Option(help="A recipe file (.yaml), or passes: 'prune{ratio=0.5},sparsify'.")]
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the compressed ONNX file goes.")]
    data: Annotated[str | None, typer.Option(help="Calibration data: .npz, .npy, or a folder of them.")] = None
    report: Annotated[Path | None, typer.Option(help="A folder for report.json, report.txt and report.png.")] = None
    manifest: Annotated[Path | None, typer.Option(help="Where the manifest (kept indices, masks, scales) goes.")] = None
    seed: Annotated[int | None, typer.Option(help="For what is drawn at random; instead of the recipe's.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Samples in a batch; instead of the recipe's.")] = None
    limit: Annotated[int | None, typer.Option(help="How many samples to use; instead of the recipe's.")] = None
    runner: Annotated[str, typer.Option(help="What runs the model: onnxruntime, torch, torch:cuda.")] = "onnxruntime"
    timer: Annotated[
        str, typer.Option(help="What measures latency, where it is the budget: onnxruntime, or tensorrt on a GPU.")
    ] = "onnxruntime"
    clean: Annotated[
        bool | None, typer.Option("--clean/--no-clean", help="Fold constants and BatchNormalization first.")
    ] = None


def compress(options: CompressOptions, screen: Screen) -> Answer:
    """Make a model smaller: run the passes of a recipe over it, and write the result."""
    from secateur.compression import compress
    from secateur.ir.files import check_writable
    from secateur.reports import PICTURE, report_names

    check_writable(options.output)
    with _companions(options) as write, screen.progress() as progress:
        result = compress(
            options.model,
            options.recipe,
            options.data,
            seed=options.seed,
            clean=options.clean,
            progress=progress,
            batch_size=options.batch_size,
            limit=options.limit,
            runner=options.runner,
            timer=options.timer,
        )
        written = write.everything(result)
    for path in written:
        screen.note(f"wrote {path}")
    if options.report is not None and PICTURE not in report_names():
        screen.note(f"{PICTURE} was left out: matplotlib is not installed (pip install 'secateur[run]')")
    return Answer(result.report, extra={"written": [str(path) for path in written]})


@dataclass(frozen=True)
class _Writer:
    """Writes the model and, beside their targets, the files that go with it."""

    output: Path
    manifest: Path | None
    report: Path | None
    temporaries: dict[Path, Path]

    def everything(self, result: Result) -> list[Path]:
        contents = {} if self.report is None else result.report.files()
        for path, temporary in self.temporaries.items():
            if path == self.manifest:
                result.manifest.save(temporary)
            else:
                temporary.write_bytes(contents[path.name])
        # The model comes last: once it is there, nothing that may take long or fail is left to do.
        result.graph.save(self.output)
        return [self.output, *self.temporaries]


@contextmanager
def _companions(options: CompressOptions) -> Iterator[_Writer]:
    """Yields a writer for the manifest and the report; they appear when the block ends well, or not at all."""
    from secateur.ir.files import write_atomically
    from secateur.reports import make_folder, report_names

    folder = options.report
    made = folder is not None and not folder.exists()
    try:
        targets = [] if options.manifest is None else [options.manifest]
        if folder is not None:
            targets += [make_folder(folder) / name for name in report_names()]
        if len({path.resolve() for path in (options.output, *targets)}) <= len(targets):
            raise Misuse("two outputs have the same path", hint="give the model and the manifest a path of their own")
        with write_atomically(*targets) as temporaries:
            pairs = dict(zip(targets, temporaries, strict=True))
            yield _Writer(options.output, options.manifest, folder, pairs)
    except BaseException:
        if made and folder is not None:
            with suppress(OSError):  # never there, or somebody else put a file into it
                folder.rmdir()
        raise
