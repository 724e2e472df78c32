"""`secateur build` with a build file: compress, build engines, check all of it, then put it into place.

Nothing is made again whose inputs did not change: the model with its external data, the recipe and the files that it
names, the data, the options, and the versions of the packages that do the work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.backends.tensorrt import load as load_tensorrt
from secateur.backends.tensorrt.commands import Commands, commands
from secateur.backends.tensorrt.metadata import package_version
from secateur.build_file import BuildFile, EngineTable, load_build_file, output_of, recipe_text
from secateur.building import EngineReport, build, options_of
from secateur.checking import Figures, Verdict, measure, require, verdicts
from secateur.compression import compress
from secateur.fingerprints import Memory, Record, file_digest, files_of_passes, fingerprint, tree_digest
from secateur.ir.onnx_external import checksums
from secateur.passes.context import Progress, silent
from secateur.recipes import recipe_of
from secateur.staging import Staging, staging
from secateur.text import Shown, heading, notes, table

if TYPE_CHECKING:
    from rich.console import RenderableType

MEMORY = ".secateur-build.json"
"""Beside the build file: what the last build was made of. It may be deleted at any time."""


@dataclass(frozen=True)
class Step:
    """One thing that a build file asks for. `built` is False where it was up to date."""

    name: str
    output: str
    built: bool
    seconds: float
    bytes: int


@dataclass(frozen=True)
class ProjectReport(Shown):
    """What a build came to (`build_project`); `notes` are those of engines that were built now."""

    file: str
    steps: tuple[Step, ...]
    checks: tuple[Verdict, ...]
    figures: Figures
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""
        return {
            "file": self.file,
            "steps": [asdict(step) for step in self.steps],
            "checks": [asdict(check) for check in self.checks],
            "figures": self.figures.to_json(),
            "notes": list(self.notes),
        }

    def blocks(self) -> Iterable[RenderableType]:
        """What was built, and what was checked."""
        yield heading(self.file, first=True)
        yield table(
            [
                {
                    "step": one.name,
                    "output": one.output,
                    "": "built" if one.built else "up to date",
                    "seconds": one.seconds if one.built else None,
                    "bytes": one.bytes,
                }
                for one in self.steps
            ]
        )
        if self.checks:
            yield table([one.cells() for one in self.checks], gap=True)
        yield from notes(self.notes)


@dataclass
class _Work:
    """One run over a build file."""

    path: Path
    file: BuildFile
    memory: Memory
    stage: Staging
    force: bool
    progress: Progress
    records: dict[str, Record] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def fresh(self, step: str, inputs: str) -> Record | None:
        return None if self.force else self.memory.fresh(step, inputs)

    def name(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)

    def keep(self, step: str, record: Record, output: Path, seconds: float | None) -> None:
        """Notes that a step is done; `seconds` is None where it was up to date."""
        self.records[step] = record
        lies = self.stage.place(output) if seconds is not None else output
        files = [lies.parent / Path(name).name for name in record.outputs]
        size = sum(path.stat().st_size for path in files if not path.name.endswith(".json"))
        self.steps.append(Step(step, self.name(output), seconds is not None, seconds or 0.0, size))

    def staged(self, target: Path) -> dict[str, str]:
        """Checksums of what was made for a target, by the names that it will have."""
        stage = self.stage.place(target).parent
        return {self.name(path): file_digest(stage / path.name) for path in self.stage.files(target)}


def build_project(
    path: str | os.PathLike[str], *, force: bool = False, progress: Progress | None = None
) -> ProjectReport:
    """Does what a build file says (`secateur.build_file`).

    Outputs appear together at the end, after every check held; whatever goes wrong or is interrupted before, they are
    what they were.

    Args:
        path: the file, usually `secateur.toml`; all its paths are relative to its folder.
        force: make everything anew, whether it changed or not.
        progress: told `(description, done, total)` as the work goes on.

    Raises:
        TextError: the build file or the recipe says something that cannot be.
        CheckFailed: a limit does not hold: names the figure, the limit and the value.
        SecateurError: whatever `compress`, `build` and `compare` raise.
    """
    path = Path(path)
    with staging() as stage:
        file = load_build_file(path)
        work = _Work(path, file, Memory(path.parent / MEMORY), stage, force, progress or silent)
        model = _compress(work)
        engines = [_engine(work, table, model) for table in file.engine]
        figures = _figures(work, model, engines)
        checks = verdicts(file.checks, file.budget, figures)
        require(checks, os.fspath(path))
        stage.publish()
        work.memory.save(work.records)
    return ProjectReport(os.fspath(path), tuple(work.steps), checks, figures, tuple(work.remarks))


def project_commands(path: str | os.PathLike[str]) -> list[Commands]:
    """For each engine of a build file, what other tools would be told to build it of the compressed model.

    Raises:
        TextError: the build file says something that cannot be.
    """
    file, folder = load_build_file(path), Path(path).parent
    model = folder / (file.model.path if file.recipe is None else output_of(file))
    return [
        commands(
            model, folder / one.output, options_of(one.target, one.compute_capability, **_extras(file, one, folder))[0]
        )
        for one in file.engine
    ]


@dataclass(frozen=True)
class _Model:
    """The model that engines are built of: where it lies now, what it will be called, and its checksums."""

    path: Path
    target: Path
    checksums: Mapping[str, str]
    manifest: Path | None


def _compress(work: _Work) -> _Model:
    file = work.file
    source = work.folder / file.model.path
    before = checksums(source)
    if file.recipe is None:
        return _Model(source, source, before, None)
    target = work.folder / output_of(file)
    table, data = file.recipe, file.data
    recipe = recipe_of(recipe_text(table, work.folder))
    inputs = fingerprint(
        output_of(file),
        before,
        recipe.model_dump(exclude={"name"}),
        files_of_passes(recipe.passes),
        table.model_dump(exclude={"file"}),
        None if data is None else (data.batch_size, data.limit, tree_digest(work.folder / data.path)),
        _versions(),
    )
    beside = target.with_name(f"{target.name}.manifest.json")
    if (found := work.fresh("model", inputs)) is not None:
        work.keep("model", found, target, None)
        return _Model(target, target, checksums(target), beside)
    started = time.perf_counter()
    result = compress(
        source,
        recipe,
        None if data is None else work.folder / data.path,
        seed=table.seed,
        clean=table.clean,
        progress=work.progress,
        batch_size=None if data is None else data.batch_size,
        limit=None if data is None else data.limit,
        runner=table.runner,
        timer=table.timer,
    )
    staged = work.stage.place(target)
    result.manifest.save(staged.with_name(beside.name))
    result.graph.save(staged)
    record = Record(inputs, work.staged(target))
    work.keep("model", record, target, time.perf_counter() - started)
    return _Model(staged, target, checksums(staged), staged.with_name(beside.name))


def _engine(work: _Work, table: EngineTable, model: _Model) -> tuple[str, Path]:
    """Builds one engine; returns its name in the report, and where it lies now."""
    target = work.folder / table.output
    name = f"engine {table.output}"
    trt = load_tensorrt(table.target)
    extras = _extras(work.file, table, work.folder)
    plugins = {one: file_digest(work.folder / one) for one in table.plugins}
    asked = {key: value for key, value in extras.items() if key not in ("plugins", "timing_cache")}
    inputs = fingerprint(
        model.checksums,
        {"target": table.target, "compute_capability": table.compute_capability, **asked},
        plugins,
        (_versions(), trt.version),
    )
    if (found := work.fresh(name, inputs)) is not None:
        work.keep(name, found, target, None)
        return table.output, target
    started = time.perf_counter()
    report: EngineReport = build(
        model.path,
        work.stage.place(target),
        target=table.target,
        compute_capability=table.compute_capability,
        manifest=model.manifest,
        progress=lambda step: work.progress(name, round(100 * step.fraction), 100),
        **extras,
    )
    work.remarks += [f"{table.output}: {note}" for note in (*report.build.notes, *report.payoff)]
    work.keep(name, Record(inputs, work.staged(target)), target, time.perf_counter() - started)
    return table.output, work.stage.place(target)


def _versions() -> dict[str, str]:
    """Of the packages that have a say in numbers."""
    return {name: package_version(name) for name in ("secateur", "numpy", "onnx", "onnxruntime", "torch")}


def _extras(file: BuildFile, table: EngineTable, folder: Path) -> dict[str, Any]:
    """The other arguments of `build` for one engine, what the checks require among them."""
    return {
        "shapes": [table.shapes] if table.shapes else table.profiles,
        "sparse_weights": table.sparse_weights,
        "workspace_bytes": table.workspace,
        "optimization_level": table.optimization_level,
        "require_precision": file.checks.require_precision,
        "require_sparse": file.checks.require_sparse,
        "refit": table.refit,
        "strip": table.strip,
        "version_compatible": table.version_compatible,
        "plugins": [folder / one for one in table.plugins],
        "timing_cache": None if table.timing_cache is None else folder / table.timing_cache,
    }


def _figures(work: _Work, model: _Model, engines: list[tuple[str, Path]]) -> Figures:
    """Figures of the model against the dense one; they are kept as long as neither changes."""
    file = work.file
    data = None if file.data is None else work.folder / (file.data.held_out or file.data.path)
    source = work.folder / file.model.path
    inputs = fingerprint(
        checksums(source),
        model.checksums,
        None if data is None else tree_digest(data),
        None if file.data is None else (file.data.batch_size, file.data.limit),
        file.checks.latency_on if file.checks.max_latency_ms is not None else None,
        [record.inputs for record in work.records.values() if file.checks.latency_on == "engine"],
        _versions(),
    )
    sizes = {name: path.stat().st_size for name, path in engines}
    if (found := work.fresh("figures", inputs)) is not None:
        figures = Figures(**{**found.figures, "engine_bytes": sizes})
    else:
        figures = measure(source, model.path, data, file, work.progress, engines)
        figures = Figures(**{**asdict(figures), "engine_bytes": sizes})
    work.records["figures"] = Record(inputs, {}, asdict(figures))
    return figures
