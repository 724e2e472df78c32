"""`secateur build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secateur.cli.command import Answer
from secateur.cli.failures import Misuse
from secateur.cli.screen import Screen

if TYPE_CHECKING:
    from secateur.backends.tensorrt import Progress
    from secateur.backends.tensorrt.commands import Commands

BUILD_FILE = "secateur.toml"
_MOST_WARNINGS = 8


class Package(StrEnum):
    """NVIDIA's two packages."""

    RTX = "tensorrt-rtx"
    FULL = "tensorrt"


class Required(StrEnum):
    """What quantized nodes must run in."""

    AS_QUANTIZED = "as-quantized"
    INT8 = "int8"
    FP8 = "fp8"
    INT4 = "int4"
    FP4 = "fp4"


@dataclass(frozen=True)
class BuildCommandOptions:
    """Options of `build`."""

    model: Annotated[
        Path | None, typer.Argument(metavar="[MODEL]", help=f"An ONNX file, or a build file ({BUILD_FILE}).")
    ] = None
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the engine goes.")] = None
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
    require_precision: Annotated[
        Required | None, typer.Option(help="Fail unless quantized nodes run in the type they are quantized to.")
    ] = None
    require_sparse: Annotated[
        bool, typer.Option("--require-sparse", help="Fail unless weights are 2:4, and not known to run densely.")
    ] = False
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be replaced later.")] = False
    strip: Annotated[bool, typer.Option("--strip", help="Leave weights out; they are put in later.")] = False
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Newer versions of the package load it, too.")
    ] = False
    plugin: Annotated[list[str], typer.Option(help="A library of plugins that the model needs.")] = field(
        default_factory=list
    )
    timing_cache: Annotated[Path | None, typer.Option(help="What kernels took, read and written; tensorrt only.")] = (
        None
    )
    workspace: Annotated[str | None, typer.Option(help="The most scratch memory for a kernel, as 512MiB.")] = None
    optimization_level: Annotated[int | None, typer.Option(min=0, max=5, help="0 builds fast, 5 slowly.")] = None
    manifest: Annotated[Path | None, typer.Option(help="Its checksum goes into the metadata beside the engine.")] = None
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Build nothing; print what trtexec and polygraphy would be told.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="With a build file: build anew what did not change.")] = False


def build(options: BuildCommandOptions, screen: Screen) -> Answer:
    """Build a TensorRT engine, or all that a build file says (secateur.toml in this folder, if nothing is named).

    Exit codes: 0 all is there; 1 the model, data or build file cannot be used; 2 a mistake on the command line; 3 no
    TensorRT, or not what was asked of it; 4 TensorRT refuses the model, a size or a target; 5 a check does not hold; 70
    a defect; 130 and 143 interrupted. Nothing is written but at 0.
    """
    if options.model is None or options.model.suffix.lower() == ".toml":
        return _project(options, screen)
    if options.force:
        raise Misuse("--force goes with a build file", hint="leave it out: an engine of its own is always built")
    if options.output is None:
        raise Misuse("where the engine goes is not said", hint="add -o ENGINE; see `secateur build --help`")
    arguments = _arguments(options)
    if options.print_command:
        return _printed(options, options.model, options.output, arguments)
    from secateur.building import build

    warned = _warn(options, screen)
    with screen.progress() as tell:
        report = build(options.model, options.output, progress=_percent(tell), **arguments)
    screen.note(f"wrote {options.output} and {options.output}.json")
    return Answer(report, extra={"lint": warned})


def _project(options: BuildCommandOptions, screen: Screen) -> Answer:
    from secateur.project import build_project, project_commands

    path = options.model or Path(BUILD_FILE)
    here = BuildCommandOptions(model=options.model, force=options.force, print_command=options.print_command)
    changed = [one.name for one in fields(here) if getattr(here, one.name) != getattr(options, one.name)]
    if changed:
        name = changed[0].replace("_", "-")
        raise Misuse(f"--{name} does not go with a build file", hint=f"say it in {path}, or name a model and -o")
    if options.print_command:
        return _lines(project_commands(path))
    with screen.progress() as tell:
        report = build_project(path, force=options.force, progress=tell)
    for step in report.steps:
        if step.built:
            screen.note(f"wrote {step.output}")
    return Answer(report)


def _arguments(options: BuildCommandOptions) -> dict[str, Any]:
    """The options as `secateur.build` takes them."""
    from secateur.amounts import bytes_of
    from secateur.backends.tensorrt import Profile, parse_shape

    ranges = Profile(tuple(parse_shape(text) for text in options.shape)).ranges
    names = ("sparse_weights", "require_sparse", "refit", "strip", "version_compatible", "optimization_level")
    return {
        "target": options.target.value,
        "compute_capability": [name for text in options.compute_capability for name in text.split(",") if name],
        "shapes": {one.input: (one.min, one.opt, one.max) for one in ranges},
        "require_precision": None if options.require_precision is None else options.require_precision.value,
        "workspace_bytes": None if options.workspace is None else bytes_of(options.workspace),
        "plugins": options.plugin,
        "timing_cache": options.timing_cache,
        "manifest": options.manifest,
        **{name: getattr(options, name) for name in names},
    }


def _printed(options: BuildCommandOptions, model: Path, output: Path, arguments: dict[str, Any]) -> Answer:
    from secateur.backends.tensorrt.commands import commands
    from secateur.building import options_of

    return _lines([commands(model, output, options_of(**arguments)[0])])


def _lines(found: list[Commands]) -> Answer:
    from secateur.text import Plain

    lines = []
    for one in found:
        lines += [one.trtexec, one.polygraphy, *(f"# {text}" for text in one.missing)]
    rows = [{"trtexec": one.trtexec, "polygraphy": one.polygraphy, "missing": list(one.missing)} for one in found]
    return Answer(Plain("\n".join(lines), {"commands": rows}))


def _percent(tell: Callable[[str, int, int], None]) -> Callable[[Progress], None]:
    return lambda step: tell("build", round(100 * step.fraction), 100)


def _warn(options: BuildCommandOptions, screen: Screen) -> list[str]:
    """What the build would change without a word, said before it; what it refuses, it says itself."""
    from secateur.backends.tensorrt.lint import Severity
    from secateur.ir.errors import SecateurError
    from secateur.linting import lint

    target = ",".join([options.target.value, *options.compute_capability])
    try:
        found = lint(options.model or "", target=target).findings
    except SecateurError:
        return []  # the build says what is wrong with the file or the target
    changed = [str(one) for one in found if one.severity is Severity.CHANGED]
    for line in changed[:_MOST_WARNINGS]:
        screen.note(f"lint: {line}")
    if len(changed) > _MOST_WARNINGS:
        screen.note(f"lint: and {len(changed) - _MOST_WARNINGS} more; `secateur lint` lists them")
    return changed
