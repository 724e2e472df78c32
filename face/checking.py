"""Limits that a compressed model and its engines must keep, and the figures that they are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from secateur.backends.compare import graph_size
from secateur.backends.tensorrt.errors import CHECK_FAILED
from secateur.build_file import BudgetTable, BuildFile, ChecksTable
from secateur.comparison import compare
from secateur.feeding import graph_of
from secateur.inspection import macs_of
from secateur.ir import Graph
from secateur.ir.errors import SecateurError
from secateur.passes.context import Progress
from secateur.text import finite

_REPEATS = 20


@dataclass(frozen=True)
class Figures:
    """What is known of a compressed model, `dense` beside it: MACs for one sample, parameters, and bytes of its files.

    `error` is the largest relative error of an output, `cosine` the smallest, both None where nothing was compared.
    `latency_ms` is the median of a run, by what ran: "onnxruntime", or the name of an engine.
    """

    macs: int
    parameters: int
    bytes: int
    dense: Mapping[str, int]
    error: float | None = None
    cosine: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    engine_bytes: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON's own types."""
        found: dict[str, Any] = finite(asdict(self))
        return found


@dataclass(frozen=True)
class Verdict:
    """One figure against one limit; `relation` is "at most" or "at least"."""

    figure: str
    value: float
    relation: str
    limit: float
    holds: bool

    def __str__(self) -> str:
        return f"{self.figure} is {self.value:.6g}, {self.relation} {self.limit:.6g} is allowed"

    def cells(self) -> dict[str, object]:
        """The columns of a table."""
        return {
            "check": self.figure,
            "value": self.value,
            "limit": f"{self.relation} {self.limit:.6g}",
            "holds": self.holds,
        }


class CheckFailed(SecateurError):
    """A limit does not hold; `checks` are those that don't. Nothing was written."""

    exit_code = CHECK_FAILED

    def __init__(self, message: str, checks: Sequence[Verdict], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.checks = tuple(checks)


def measure(
    source: Path,
    model: Path,
    data: Path | None,
    file: BuildFile,
    progress: Progress,
    engines: Sequence[tuple[str, Path]],
) -> Figures:
    """Figures of a model against the dense one that it was made of; without data, sizes alone."""
    dense, small = graph_of(source), graph_of(model)
    before, after = graph_size(dense, macs_of), graph_size(small, macs_of)
    error = cosine = None
    latency: dict[str, float] = {}
    timed = file.checks.max_latency_ms is not None
    if data is not None and file.data is not None:
        on_cpu = timed and file.checks.latency_on == "onnxruntime"
        found = compare(
            dense,
            small,
            data,
            progress=progress,
            repeats=_REPEATS if on_cpu else 0,
            batch_size=file.data.batch_size,
            limit=file.data.limit,
        ).found
        error = max((_relative(one.sqnr_db) for one in found.outputs), default=0.0)
        cosine = min((one.cosine for one in found.outputs), default=1.0)
        if found.latency is not None:
            latency["onnxruntime"] = 1e3 * found.latency.median_b
        if timed and not on_cpu:
            latency = {name: _engine_latency(path, small, data) for name, path in engines}
    return Figures(
        macs=after.macs or 0,
        parameters=after.parameters,
        bytes=after.bytes,
        dense={"macs": before.macs or 0, "parameters": before.parameters, "bytes": before.bytes},
        error=error,
        cosine=cosine,
        latency_ms=latency,
    )


def verdicts(checks: ChecksTable, budget: BudgetTable, figures: Figures) -> tuple[Verdict, ...]:
    """Every limit that is set, against its figure."""
    return tuple(_verdicts(checks, budget, figures))


def _verdicts(checks: ChecksTable, budget: BudgetTable, figures: Figures) -> Iterator[Verdict]:
    limits = {"macs": budget.macs, "parameters": budget.parameters, "bytes": budget.bytes}
    for name, amount in limits.items():
        if amount is None:
            continue
        limit = float(amount)
        value, dense = getattr(figures, name), figures.dense[name]
        if limit <= 1:
            yield _at_most(f"{name} as a share of the dense model's", value / dense if dense else 1.0, limit)
        else:
            yield _at_most(name, value, limit)
    if checks.max_error is not None and figures.error is not None:
        yield _at_most("relative error", figures.error, checks.max_error)
    if checks.min_cosine is not None and figures.cosine is not None:
        holds = figures.cosine >= checks.min_cosine
        yield Verdict("cosine", figures.cosine, "at least", checks.min_cosine, holds)
    if checks.max_bytes is not None:
        for name, size in figures.engine_bytes.items():
            yield _at_most(f"bytes of {name}", size, int(checks.max_bytes))
    if checks.max_latency_ms is not None:
        for name, milliseconds in figures.latency_ms.items():
            yield _at_most(f"latency of {name}, ms", milliseconds, checks.max_latency_ms)


def require(checks: Sequence[Verdict], where: str) -> None:
    """Passes when all limits hold.

    Raises:
        CheckFailed: names each figure that does not, its limit and its value.
    """
    wrong = [one for one in checks if not one.holds]
    if wrong:
        count = "a check does" if len(wrong) == 1 else f"{len(wrong)} checks do"
        raise CheckFailed(
            f"{where}: {count} not hold: {'; '.join(map(str, wrong))}",
            wrong,
            hint="nothing was written; ask for less in [recipe], or allow more in [checks] and [budget]",
        )


def _at_most(figure: str, value: float, limit: float) -> Verdict:
    return Verdict(figure, value, "at most", limit, value <= limit)


def _relative(sqnr_db: float) -> float:
    """sqrt(sum (a - b)^2 / sum a^2), by the ratio in decibels."""
    return float(10.0 ** (-sqnr_db / 20))


def _engine_latency(engine: Path, graph: Graph, data: Path) -> float:
    """Milliseconds for one batch on this machine's GPU."""
    from secateur.backends.tensorrt.runner import EngineRunner
    from secateur.feeding import open_data

    feeds = next(iter(open_data(graph, data))).feeds
    with EngineRunner(engine) as runner:
        return 1e3 * runner.time(feeds).median
