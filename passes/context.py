"""What a pass is handed beside the graph: facts, a runtime, data, and where to write down what it did."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from secateur.calib.batches import Source
from secateur.ir import Graph, Op
from secateur.ir.errors import BackendError, DataError
from secateur.ir.runner import DifferentiatorFactory, RunnerFactory, Stopwatch, TunerFactory
from secateur.passes.facts import Facts
from secateur.passes.manifest import Manifest
from secateur.passes.report import Entry

Progress: TypeAlias = Callable[[str, int, int], None]
Fuel: TypeAlias = Callable[[str, Op], bool]


def silent(description: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def unlimited(rule: str, op: Op) -> bool:
    """Allows every rewrite."""
    return True


@dataclass
class Context:
    """What the user has (runner, source, seed) and what the manager keeps (facts, report, manifest) for one pass."""

    facts: Facts = field(default_factory=lambda: Facts(Graph()))
    runner: RunnerFactory | None = None
    """Runs the graph, or a part of it."""
    differentiator: DifferentiatorFactory | None = None
    """Tells how much the model's answers depend on values inside."""
    tuner: TunerFactory | None = None
    """Fits weights of a part of the graph to what it should give."""
    stopwatch: Stopwatch | None = None
    """Times a graph."""
    original: Graph | None = None
    """The graph as it was before the first lossy pass; None while there was none. Tensors are shared, not copied."""
    reference: Graph | None = None
    """The graph whose layers say what each layer by itself should give: `original`, until a pass fits layers together;
    then as that pass left it."""
    source: Source | None = None
    """Calibration data; every walk over it gives the same batches."""
    seed: int = 0
    report: Entry = field(default_factory=lambda: Entry(""))
    manifest: Manifest = field(default_factory=Manifest)
    progress: Progress = silent
    """Told `(description, done, total)` as the work goes on."""
    fuel: Fuel = unlimited
    """Asked before every rewrite: `(rule, op)`. Bisecting, counting and logging are handlers of this one question."""

    def row(self, **columns: object) -> None:
        """Adds a line to this pass's table in the report."""
        self.report.row(**columns)

    def note(self, text: str, *, asked: bool = False) -> None:
        """Adds a remark to this pass's entry in the report; `asked` marks what only says back what options ask for."""
        self.report.note(text, asked=asked)

    def allow(self, rule: str, op: Op) -> bool:
        """Whether this rewrite may happen; a pass asks before each, with a word for the kind of rewrite."""
        return self.fuel(rule, op)

    def random(self, label: str = "") -> np.random.Generator:
        """A generator that depends on the run's seed and on `label` only, not on what ran before."""
        return np.random.default_rng([self.seed, zlib.crc32(label.encode())])

    def needed_runner(self, who: str) -> RunnerFactory:
        """The runner, for a pass that cannot do without one.

        Raises:
            BackendError: none was handed in.
        """
        if self.runner is None:
            raise BackendError(f"{who} runs the model, but no runtime was given", hint="pip install 'secateur[run]'")
        return self.runner

    def needed_differentiator(self, who: str) -> DifferentiatorFactory:
        """What differentiates the model, for a pass that cannot do without it.

        Raises:
            BackendError: none was handed in.
        """
        if self.differentiator is None:
            raise BackendError(
                f"{who} needs gradients, but nothing that gives them", hint="pip install 'secateur[torch]'"
            )
        return self.differentiator

    def needed_tuner(self, who: str) -> TunerFactory:
        """What fits weights by gradients, for a pass that cannot do without it.

        Raises:
            BackendError: none was handed in.
        """
        if self.tuner is None:
            raise BackendError(
                f"{who} fits weights by gradients, but nothing was given that does so",
                hint="pip install 'secateur[torch]'",
            )
        return self.tuner

    def needed_stopwatch(self, who: str) -> Stopwatch:
        """What times graphs, for a pass that cannot do without it.

        Raises:
            BackendError: none was handed in.
        """
        if self.stopwatch is None:
            raise BackendError(f"{who} times the model, but no runtime was given", hint="pip install 'secateur[run]'")
        return self.stopwatch

    def needed_source(self, who: str) -> Source:
        """The calibration data, for a pass that cannot do without it.

        Raises:
            DataError: none was handed in.
        """
        if self.source is None:
            raise DataError(f"{who} needs calibration data, but none was given", hint="give a few dozen typical inputs")
        return self.source
