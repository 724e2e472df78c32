"""`compress`: a model, a recipe and data become a smaller model, a manifest and a report."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from secateur.calib.batches import Source
from secateur.feeding import Loading, ModelLike, graph_of, open_data, refuse_unknown, title_of
from secateur.inspection import macs_of
from secateur.ir import Graph
from secateur.passes.base import Pass
from secateur.passes.context import Context, Progress, silent
from secateur.passes.hooks import Watch
from secateur.passes.manager import run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import make_pass, print_pipeline
from secateur.recipes import Recipe, RecipeLike, recipe_of
from secateur.reports import CompressionReport
from secateur.running import differentiator_of, runner_of, stopwatch_of, tuner_of

CLEAN = "clean"


class Running(Loading, total=False):
    """How data is walked, and with what models are run on it: `runner` (`secateur.running.runner_of`)."""

    runner: str


class Compressing(Running, total=False):
    """The same, and by what latency is measured: `timer` (`secateur.running.stopwatch_of`)."""

    timer: str


@dataclass(frozen=True)
class Result:
    """The compressed graph, what was kept of which weight, and what was done."""

    graph: Graph
    manifest: Manifest
    report: CompressionReport


def compress(
    model: ModelLike,
    recipe: RecipeLike,
    data: object = None,
    *,
    seed: int | None = None,
    clean: bool | None = None,
    progress: Progress | None = None,
    **loading: Unpack[Compressing],
) -> Result:
    """Runs a recipe over a copy of a model.

    Args:
        model: a graph, which stays as it is, or the path of an ONNX file.
        recipe: passes as text (`prune{ratio=0.5},quantize{format=int8}`) or in a list, a recipe file, or a `Recipe`.
        data: calibration data for the passes that need some; whatever `secateur.open_source` takes.
        seed: for all that is drawn at random; None takes the recipe's (0 if it has none).
        clean: run the pass `clean` first, which folds constants and BatchNormalization; None takes the recipe's word
            (yes if it has none).
        progress: told `(description, done, total)` as the work goes on.
        loading: `batch_size` and `limit` (samples at most) of the data, the recipe's where they are left out; `runner`,
            with what the model is run on it: "onnxruntime", "torch", "torch:cuda"; `timer`, by what latency is measured
            where a pass has a budget of it: "onnxruntime", or "tensorrt", by engines on this machine's GPU.

    Raises:
        ModelError: the file is no model.
        TextError: no such pass or option.
        DataError: the data does not fit the model, or a pass needs data and there is none.
        RefusedError: a pass was asked for something that it cannot do correctly.
        BackendError: there is no such runner or timer, or it cannot run the model.
        PassError: a pass broke its contract, which is our defect.
    """
    how = loading.get("runner", "onnxruntime")
    runner, stopwatch = runner_of(how), stopwatch_of(loading.get("timer", "onnxruntime"))
    asked = _merged(recipe_of(recipe), seed, clean, loading)
    graph = graph_of(model)
    passes, added = passes_of(recipe, asked)
    source = _source(graph, data, asked)
    context = Context(
        runner=runner,
        differentiator=differentiator_of(how),
        tuner=tuner_of(how),
        stopwatch=stopwatch,
        source=source,
        seed=asked.seed,
        progress=progress or silent,
        manifest=_manifest(model),
    )
    done = run_pipeline(graph, passes, context, hooks=[_watch(progress)] if progress else [])
    done.report.model = title_of(model)
    report = CompressionReport(
        run=done.report,
        pipeline=print_pipeline(passes),
        recipe=asked.name,
        seed=asked.seed,
        data=None if source is None else source.name,
        macs=(macs_of(graph), macs_of(done.graph)),
        remarks=("`clean` ran first, so that constants and BatchNormalization are folded",) if added else (),
    )
    return Result(done.graph, done.manifest, report)


def _merged(recipe: Recipe, seed: int | None, clean: bool | None, loading: Compressing) -> Recipe:
    """The recipe with what the caller says instead."""
    refuse_unknown(loading, Compressing, "compress")
    said = {"seed": seed, "clean": clean}
    walked = {name: loading.get(name) for name in ("batch_size", "limit")}
    data = recipe.data.model_copy(update={name: value for name, value in walked.items() if value is not None})
    update = {name: value for name, value in said.items() if value is not None}
    return recipe.model_copy(update={**update, "data": data})


def passes_of(given: RecipeLike, recipe: Recipe) -> tuple[Sequence[Pass], bool]:
    """What to run, and whether `clean` was put before what the recipe names."""
    # Passes that were handed in run themselves: what they print need not be all that they are.
    passes = recipe.passes if isinstance(given, str | os.PathLike | Recipe) else tuple(given)
    if not recipe.clean or passes[0].name == CLEAN:
        return passes, False
    return (make_pass(CLEAN), *passes), True


def _watch(progress: Progress) -> Watch:
    """Counts passes under one name; what goes on inside them they tell themselves."""
    return Watch(lambda description, done, total: progress("passes", done, total))


def _source(graph: Graph, data: object, recipe: Recipe) -> Source | None:
    if data is None:
        return None
    return open_data(graph, data, batch_size=recipe.data.batch_size, limit=recipe.data.limit)


def _manifest(model: ModelLike) -> Manifest:
    """An empty manifest that says which model it is of; the checksum is that of the file, without external data."""
    manifest = Manifest(model=title_of(model))
    if isinstance(model, Graph):
        return manifest
    with Path(model).open("rb") as file:
        return replace(manifest, sha256=hashlib.file_digest(file, "sha256").hexdigest())
