"""Which rewrite broke a model, by whatever the user can tell a good model from a bad one."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from secateur.backends.difference import Difference
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.compression import passes_of
from secateur.feeding import Loading, ModelLike, graph_of, open_data, title_of
from secateur.ir import Graph
from secateur.ir.errors import DataError
from secateur.passes.bisect import Culprit
from secateur.passes.bisect import bisect as search
from secateur.passes.context import Context
from secateur.passes.pipeline import print_pipeline
from secateur.recipes import RecipeLike, recipe_of
from secateur.running import differentiator_of, tuner_of
from secateur.text import Shown, heading, pairs

if TYPE_CHECKING:
    from rich.console import RenderableType

Judge: TypeAlias = Callable[[Graph], bool]

PLACEHOLDER = "{model}"


@dataclass(frozen=True)
class Verdict(Shown):
    """The rewrite that made the model bad; None where the whole pipeline leaves it good. `tried` counts judgements."""

    model: str
    pipeline: str
    culprit: Culprit | None
    tried: int

    def to_json(self) -> dict[str, Any]:
        """The culprit as the index and text of its pass, and the rule and op of its rewrite."""
        found = self.culprit
        document: dict[str, Any] | None = None
        if found is not None:
            rewrite = None if found.rewrite is None else found.rewrite._asdict()
            document = {"index": found.index, "pass": str(found.running), "rewrite": rewrite}
            document |= {"number": found.number, "of": found.of}
        return {"model": self.model, "pipeline": self.pipeline, "culprit": document, "tried": self.tried}

    def blocks(self) -> Iterable[RenderableType]:
        """One line, and how it was found."""
        yield heading(f"{self.model}: {self.pipeline}", first=True)
        culprit = "none: the model stays good" if self.culprit is None else str(self.culprit)
        yield pairs({"culprit": culprit, "models judged": self.tried})


def bisect(model: ModelLike, recipe: RecipeLike, is_good: Judge, data: object = None) -> Verdict:
    """Finds the first rewrite of a recipe after which `is_good` says no.

    Args:
        model: a graph, which stays as it is, or the path of an ONNX file.
        recipe: as for `compress`; its seed and `clean` count too.
        is_good: judges a graph; see `by_command` and `by_error`.
        data: calibration data for the passes that need some.

    Raises:
        DataError: the model is bad before any pass has run.
    """
    asked, graph = recipe_of(recipe), graph_of(model)
    passes, _ = passes_of(recipe, asked)
    loading = asked.data
    source = None
    if data is not None:
        source = open_data(graph, data, batch_size=loading.batch_size, limit=loading.limit)
    tried = 0

    def judge(candidate: Graph) -> bool:
        nonlocal tried
        tried += 1
        return is_good(candidate)

    context = Context(
        runner=OnnxRuntimeRunner,
        differentiator=differentiator_of("onnxruntime"),
        tuner=tuner_of("onnxruntime"),
        source=source,
        seed=asked.seed,
    )
    culprit = search(graph, passes, judge, context)
    return Verdict(title_of(model), print_pipeline(passes), culprit, tried)


def by_command(command: str) -> Judge:
    """Judges by a program: exit code 0 is good. `{model}` in the command stands for the ONNX file, or it comes last.

    Raises:
        DataError: the command is empty or its quotes do not match; later, when judging: it cannot be run.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise DataError(f"cannot read the command {command!r}: {error}", hint="close its quotes") from error
    if not words:
        raise DataError("the command is empty", hint="give a program that exits with 0 for a good model")
    if not any(PLACEHOLDER in word for word in words):
        words.append(PLACEHOLDER)

    def is_good(graph: Graph) -> bool:
        with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
            path = Path(folder) / "model.onnx"
            graph.save(path)
            try:
                done = subprocess.run(
                    [word.replace(PLACEHOLDER, str(path)) for word in words], stdout=subprocess.DEVNULL, check=False
                )
            except OSError as error:
                hint = "give the path of a program, and its arguments"
                raise DataError(f"cannot run {words[0]!r}: {error.strerror}", hint=hint) from error
            return done.returncode == 0

    return is_good


def by_error(model: ModelLike, data: object, max_error: float, **loading: Unpack[Loading]) -> Judge:
    """Judges by the outputs: good while sqrt(sum (a - b)^2 / sum a^2) against `model` is at most `max_error` in each.

    Raises:
        DataError: the data does not fit the model, or `max_error` is negative.
        BackendError: onnxruntime is missing or cannot run the model.
    """
    if not max_error >= 0:
        raise DataError(f"the largest error must be 0 or more, found {max_error}", hint="0.01 is one percent")
    reference = graph_of(model)
    source = open_data(reference, data, **loading)

    def is_good(graph: Graph) -> bool:
        found = {value.name: Difference() for value in reference.outputs}
        with OnnxRuntimeRunner(reference) as dense, OnnxRuntimeRunner(graph) as other:
            for batch in source:
                expected, outputs = dense.run(batch.feeds), other.run(batch.feeds)
                for name, difference in found.items():
                    difference.update(expected[name], outputs[name])
        return all(difference.relative <= max_error for difference in found.values())

    return is_good
