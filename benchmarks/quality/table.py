"""Tables of cells that each have a process of their own: where they are kept, and how they are filled in one by one."""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pruning import Result, machine
from rich.console import Console

from quality.task import Task

Cell = tuple[str, str, str]
"""(model, amount, method)"""
DRAWN = 400
"""Letters of a cell that go to the screen."""


@dataclass(frozen=True)
class Book:
    """The file of a table: `{"machine": ..., "cells": [{"model", "amount", "method", ...}, ...]}`."""

    path: Path

    def read(self) -> Result:
        """What is there."""
        return dict(json.loads(self.path.read_text())) if self.path.is_file() else {}

    def record(self, results: Result, cell: Cell, row: Mapping[str, Any]) -> None:
        """Puts a cell in the place of its older self, and all into the file, beside it first.

        Another run may have written some meanwhile.
        """
        found = [one for one in self.read().get("cells", []) if key(one) != cell]
        named = dict(zip(("model", "amount", "method"), cell, strict=True))
        results["cells"] = [*found, named | dict(row)]
        self.path.parent.mkdir(exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(results, indent=1) + "\n")
        draft.replace(self.path)

    def fill(
        self, results: Result, cells: Iterable[Cell], run: Callable[[Cell], Mapping[str, Any]], console: Console
    ) -> None:
        """Runs these, one after another."""
        wanted = list(cells)
        for index, cell in enumerate(wanted):
            console.print(f"{index + 1}/{len(wanted)}", *cell, markup=False, highlight=False)
            row = run(cell)
            console.print("   ", json.dumps(row)[:DRAWN], markup=False, highlight=False)
            results["machine"] = machine()
            self.record(results, cell, row)


def key(row: Mapping[str, Any]) -> Cell:
    """Which cell a row is."""
    return row["model"], row["amount"], row["method"]


def finished(results: Result) -> set[Cell]:
    """The cells that have figures."""
    return {key(one) for one in results.get("cells", []) if "scores" in one}


def calibration(name: str, task: Task, scratch: str) -> str:
    """A file of a task's calibration data, for other programs: arrays named `NUMBER/INPUT`."""
    path = Path(scratch, f"{name}.npz")
    if not path.is_file():
        batches = task.calibrate()
        np.savez(path, **{f"{at}/{key}": array for at, feeds in enumerate(batches) for key, array in feeds.items()})
    return str(path)


def environment(place: Path, packages: Iterable[str], console: Console) -> tuple[str | None, Result]:
    """The interpreter of a virtual environment with these packages, made if need be, and what is in it; or why not."""
    python, wanted = place / "bin" / "python", list(packages)
    if not python.is_file():
        venv.create(place, with_pip=True)
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    names = [name.partition("==")[0].partition("[")[0] for name in wanted]
    question = [str(python), "-c", ask, *names]
    if subprocess.run(question, capture_output=True).returncode:
        with console.status(f"{', '.join(wanted)} into {place}"):
            install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
            made = subprocess.run(install, capture_output=True, text=True)
        if made.returncode:
            return None, {"failure": f"pip: {(made.stderr.strip().splitlines() or ['nothing said'])[-1][:240]}"}
    asked = subprocess.run(question, capture_output=True, text=True)
    return str(python), json.loads(asked.stdout)
