"""How tables of cells are filled in and printed, and the options that all their commands have."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pruning import Result, peers_python
from rich.console import Console
from rich.table import Column, Table

from quality.table import Book, Cell, finished, key
from quality.task import CACHE, Task

LIMIT = 5400
"""Seconds for one cell."""
Figure = Callable[[Result], str]
"""What a column has of a row."""


@dataclass(frozen=True)
class Desk:
    """What cells are run with: the command's options, what is there so far, a scratch folder, and the screen."""

    options: argparse.Namespace
    results: Result
    scratch: str
    console: Console

    @cached_property
    def peers(self) -> str | None:
        """The interpreter of the pruning peers' environment, which is made if need be; None where there is none."""
        python, versions = peers_python(self.options.peers, self.console)
        self.results["peers"] = json.loads(versions) if python else versions
        return python


Run = Callable[[Cell], Result]
"""Finds what belongs into a cell."""


@dataclass(frozen=True)
class Layout:
    """One table for each model.

    Attributes:
        tasks: models by name.
        amount: the heading of what is varied.
        methods: of a task, in the order of the rows; others come last.
        columns: behind the task's own figures, by heading.
    """

    tasks: Mapping[str, Task]
    amount: str
    methods: Callable[[Task], Sequence[str]]
    columns: Mapping[str, Figure]

    def fill(
        self, book: Book, options: argparse.Namespace, wanted: Iterable[Cell], runner: Callable[[Desk], Run]
    ) -> None:
        """Runs what is wanted and, where that is resumed, not there yet; prints all."""
        results, console = book.read(), screen()
        if not options.show:
            done = finished(results) if options.resume else set()
            with tempfile.TemporaryDirectory() as scratch:
                run = runner(Desk(options, results, scratch, console))
                book.fill(results, (cell for cell in wanted if cell not in done), run, console)
        self.show(results, options.models)

    def show(self, results: Result, models: Collection[str]) -> None:
        """Prints what is there of these models; of all where none are named."""
        console = screen()
        for name, task in self.tasks.items():
            if name in (models or self.tasks):
                shown = self._table(results, name, task)
                if shown.row_count:
                    console.print(shown)
        bare = [row for row in results.get("cells", []) if _reason(row) and row["model"] in (models or self.tasks)]
        for line in sorted({f"{row['model']}, {row['method']}: {_reason(row)}" for row in bare}):
            console.print(f"- {line}", markup=False, highlight=False)

    def _table(self, results: Result, name: str, task: Task) -> Table:
        shown = Table(self.amount, Column("method", overflow="fold"), title=task.title)
        for heading in (*(metric.name for metric in task.metrics), *self.columns):
            shown.add_column(heading, justify="right")
        known = self.methods(task)
        for amount in ("", *task.amounts):
            rows = [one for one in results.get("cells", []) if key(one)[:2] == (name, amount)]
            rows.sort(key=lambda row: known.index(row["method"]) if row["method"] in known else len(known))
            for row in rows:
                shown.add_row(amount, row["method"] or "default", *self._figures(row, task))
            if rows:
                shown.add_section()
        return shown

    def _figures(self, row: Result, task: Task) -> list[str]:
        """The cells of a row behind its names."""
        if _reason(row):
            return ["failed" if "failure" in row else "-", *[""] * (len(task.metrics) + len(self.columns) - 1)]
        scores = [format(row["scores"][metric.name], metric.form) for metric in task.metrics]
        return [*scores, *(figure(row) for figure in self.columns.values())]


def _reason(row: Result) -> str | None:
    """Why a row has no figures."""
    return row.get("failure") or row.get("skipped")


def number(name: str, form: str, factor: float = 1.0) -> Figure:
    """A column that shows one number of a row, `-` where there is none."""
    return lambda row: format(factor * row[name], form) if name in row else "-"


def arguments(description: str | None, tasks: Mapping[str, Any], peers: str) -> argparse.ArgumentParser:
    """A command line with the options that all tables have; `peers` says what lies in the folder of that option."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(tasks), default=())
    parser.add_argument("--peers", default=str(CACHE / "peers"), metavar="DIR", help=f"{peers}, or none")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for a cell")
    parser.add_argument("--resume", action="store_true", help="leave out cells that are finished")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    return parser


def screen() -> Console:
    """Wide enough for a table where nobody looks on."""
    return Console(width=None if sys.stdout.isatty() else 160)
