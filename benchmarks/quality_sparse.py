"""What 2:4, 4:8 and unstructured sparsity cost in quality, on trained models, judged on data not calibrated on.

    python benchmarks/quality_sparse.py [--models smollm2 ...] [--amounts 2:4 ...] [--methods default ...] [--resume]
                                        [--reference DIR] [--peers DIR]

A row is a pipeline (`quality/sparse.py`), so that the table is the ablation, too. Beside them the classes that the
authors of SparseGPT and Wanda published, from checkouts of their repositories in the folder that `--reference` names
(`DIR/sparsegpt`, `DIR/wanda`), and onnxsim's SparseGPT and Wanda. All are calibrated on the same data: for SmolLM2 128
windows of 256 tokens. `sparse %` is how much of the layers' weights was made sparse: tools differ in what they touch.

Every cell has a process of its own, on one thread, and is written to `results/quality_sparse.json` as soon as it is
finished; `--resume` leaves out those that are there. `--show` only prints what is there. `--limit` ends a cell.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning import HERE, Result, measure, peers_python
from quality import reference, sparse, table
from quality.task import CACHE
from rich.console import Console
from rich.table import Column, Table

BOOK = table.Book(HERE / "results" / "quality_sparse.json")
LIMIT = 5400
"""Seconds for one cell."""


def wanted(options: argparse.Namespace) -> Iterator[table.Cell]:
    """(model, pattern, method) of the cells that were asked for."""
    for name, task in sparse.TASKS.items():
        if name not in (options.models or sparse.TASKS):
            continue
        yield name, "", sparse.DENSE
        for pattern in options.amounts or sparse.PATTERNS:
            for method in (*sparse.METHODS, *task.peers):
                ours = sparse.METHODS.get(method)
                if ours is not None and ours.neighbours and ":" not in pattern:
                    continue
                if method in sparse.ONNXSIM and options.peers == "none":
                    continue
                if method in options.methods or not options.methods:
                    yield name, pattern, method


def run(cell: table.Cell, options: argparse.Namespace, python: str | None, scratch: str) -> Result:
    """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`."""
    name, pattern, method = cell
    folder = options.reference
    here = [sys.executable, str(HERE / "quality_sparse.py"), "--reference", str(folder or ""), "--cell", name, pattern]
    if method in sparse.REFERENCES:
        lacking = reference.missing(method, folder)
        return {"skipped": lacking} if lacking else measure([*here, method], options.limit)
    if method not in sparse.ONNXSIM:
        return measure([*here, method], options.limit)
    if python is None:
        return {"skipped": "no environment for onnxsim"}
    file = str(Path(scratch, "sparse.onnx"))
    data = table.calibration(name, sparse.TASKS[name], scratch)
    command = [python, str(HERE / "quality" / "sparse_peers.py"), method, sparse.PATTERNS[pattern]]
    made = measure([*command, str(sparse.TASKS[name].model()), data, file], options.limit)
    return made if "failure" in made else {**made, **measure([*here, file], options.limit)}


def show(results: Result, options: argparse.Namespace, console: Console) -> None:
    """One table for each model."""
    cells: list[dict[str, Any]] = results.get("cells", [])
    for name, task in sparse.TASKS.items():
        if name not in (options.models or sparse.TASKS):
            continue
        shown = Table("pattern", Column("method", overflow="fold"), title=task.title)
        for heading in (*(metric.name for metric in task.metrics), "sparse %", "zeros %", "processor s", "peak MB"):
            shown.add_column(heading, justify="right")
        known = [sparse.DENSE, *sparse.METHODS, *task.peers]
        for pattern in ("", *sparse.PATTERNS):
            rows = [one for one in cells if (one["model"], one["amount"]) == (name, pattern) and "skipped" not in one]
            for one in sorted(rows, key=lambda row: known.index(row["method"])):
                shown.add_row(pattern, one["method"], *figures(one, name))
            if rows:
                shown.add_section()
        if shown.row_count:
            console.print(shown)
    for line in sorted({f"{one['method']}: {one['skipped']}" for one in cells if "skipped" in one}):
        console.print(f"- {line}", markup=False, highlight=False)


def figures(cell: Result, name: str) -> list[str]:
    """The cells of a row behind its names."""
    metrics = sparse.TASKS[name].metrics
    if reason := cell.get("failure"):
        return [reason[:60], *[""] * (len(metrics) + 3)]
    scores = [format(cell["scores"][metric.name], metric.form) for metric in metrics]
    shares = [format(100 * cell[key], ".1f") if key in cell else "-" for key in ("sparse", "zeros")]
    return [*scores, *shares, *(format(cell[key], ".0f") if key in cell else "-" for key in ("processor", "peak_mb"))]


def fill(results: Result, options: argparse.Namespace, console: Console) -> None:
    """Runs what was asked for."""
    done = table.finished(results) if options.resume else set()
    cells = [cell for cell in wanted(options) if cell not in done]
    python = None
    if any(method in sparse.ONNXSIM for _, _, method in cells):
        python, versions = peers_python(options.peers, console)
        results["peers"] = json.loads(versions) if python else versions
    with tempfile.TemporaryDirectory() as scratch:

        def row(cell: table.Cell) -> Result:
            ours = sparse.METHODS.get(cell[2])
            return {"pipeline": ours and ours.pipeline(cell[1]), **run(cell, options, python, scratch)}

        BOOK.fill(results, cells, row, console)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(sparse.TASKS), default=())
    parser.add_argument("--amounts", nargs="+", choices=tuple(sparse.PATTERNS), default=())
    rows = (*sparse.METHODS, *sparse.REFERENCES, *sparse.ONNXSIM)
    parser.add_argument("--methods", nargs="+", choices=rows, default=(), metavar="ROW", help="; ".join(rows))
    parser.add_argument("--peers", default=str(CACHE / "peers"), metavar="DIR", help="onnxsim's environment, or none")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkouts of sparsegpt and wanda")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for a cell")
    parser.add_argument("--resume", action="store_true", help="leave out cells that are finished")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        from quality.sparse_cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell, reference=str(options.reference or ""))))
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    results = BOOK.read()
    if not options.show:
        fill(results, options, console)
    show(results, options, console)


if __name__ == "__main__":
    main()
