"""What fewer bits cost in quality, on trained models, judged on data not calibrated on.

    python benchmarks/quality_quantized.py [--models resnet ...] [--formats INT8 ...] [--methods default ...] [--resume]

A row is a pipeline (`quality/quantized.py`), so that the table is the ablation, too. Beside them, on the same
calibration data: onnxruntime's `quantize_static`, with its defaults and as TensorRT takes it (symmetric, a scale for
each channel, biases in float), NNCF, modelopt and aimet-onnx with theirs. 2:4 and INT8 together are compared with
SparseGPT followed by GPTQ. onnxruntime runs what each of them wrote. What a tool has not, or fails at, is said.

The tools do not get on with each other: each has a virtual environment of its own in `--peers`, made at the first run
(and kept). Every cell has a process of its own, on one thread, and is written to `results/quality_quantized.json` as
soon as it is finished; `--resume` leaves out those that are there. `--show` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pruning import HERE, Result, measure
from quality import quantized, table
from quality.task import CACHE
from rich.console import Console
from rich.table import Column, Table

BOOK = table.Book(HERE / "results" / "quality_quantized.json")
LIMIT = 1800
"""Seconds for one cell."""


def wanted(options: argparse.Namespace) -> Iterator[table.Cell]:
    """(model, format, method) of the cells that were asked for."""
    for name, task in quantized.TASKS.items():
        if name not in (options.models or quantized.TASKS):
            continue
        if not options.methods or quantized.FLOAT in options.methods:
            yield name, "", quantized.FLOAT
        for form in task.amounts:
            if form not in (options.formats or task.amounts):
                continue
            is_transformer = name in quantized.TRANSFORMERS
            ours = [method for method, row in quantized.METHODS.items() if row.is_for(form, is_transformer)]
            peers = [] if form == quantized.SPARSE or options.peers == "none" else list(quantized.PEERS)
            yield from ((name, form, one) for one in (*ours, *peers) if one in options.methods or not options.methods)


class Runner:
    """Runs cells; keeps calibration data in a scratch folder, and the tools' environments that were asked for."""

    def __init__(self, options: argparse.Namespace, results: Result, scratch: str, console: Console) -> None:
        self.options, self.results, self.scratch, self.console = options, results, scratch, console
        self.pythons: dict[str, str | None] = {}

    def __call__(self, cell: table.Cell) -> Result:
        """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`."""
        name, form, method = cell
        here = [sys.executable, str(HERE / "quality_quantized.py"), "--cell", name, form]
        if method not in quantized.PEERS:
            row = quantized.METHODS.get(method)
            return {"pipeline": row and row.pipeline(form), **measure([*here, method], self.options.limit)}
        python = self._python(quantized.PEERS[method])
        if python is None:
            return {"skipped": "its environment could not be made"}
        task, file = quantized.TASKS[name], str(Path(self.scratch, "quantized.onnx"))
        data = table.calibration(name, task, self.scratch)
        kind = "transformer" if name in quantized.TRANSFORMERS else ""
        command = [python, str(HERE / "quality" / "quantized_peers.py"), method, quantized.FORMATS[form]]
        made = measure([*command, str(task.model()), data, file, kind], self.options.limit)
        if "failure" in made or "skipped" in made:
            return made
        return {**made, **measure([*here, file], self.options.limit)}

    def _python(self, name: str) -> str | None:
        if name not in self.pythons:
            place = Path(f"{self.options.peers}-{name}")
            self.pythons[name], found = table.environment(place, quantized.ENVIRONMENTS[name], self.console)
            self.results.setdefault("peers", {})[name] = found
        return self.pythons[name]


def show(results: Result, options: argparse.Namespace, console: Console) -> None:
    """One table for each model."""
    cells: list[dict[str, Any]] = results.get("cells", [])
    for name, task in quantized.TASKS.items():
        if name not in (options.models or quantized.TASKS):
            continue
        shown = Table("format", Column("method", overflow="fold"), title=task.title)
        for heading in (*(metric.name for metric in task.metrics), "Q / DQ", "file MB", "processor s", "peak MB"):
            shown.add_column(heading, justify="right")
        known = [quantized.FLOAT, *quantized.METHODS, *quantized.PEERS]
        for form in ("", *task.amounts):
            rows = [one for one in cells if table.key(one)[:2] == (name, form) and one["method"] in known]
            for one in sorted(rows, key=lambda row: known.index(row["method"])):
                shown.add_row(form, one["method"], *figures(one, name))
            if rows:
                shown.add_section()
        if shown.row_count:
            console.print(shown)


def figures(cell: Result, name: str) -> list[str]:
    """The cells of a row behind its names."""
    metrics = quantized.TASKS[name].metrics
    if reason := cell.get("failure") or cell.get("skipped"):
        return [reason[:60], *[""] * (len(metrics) + 3)]
    scores = [format(cell["scores"][metric.name], metric.form) for metric in metrics]
    pairs = f"{cell['quantizers']} / {cell['dequantizers']}" if "quantizers" in cell else "-"
    took = [format(cell[key], ".0f") if key in cell else "-" for key in ("processor", "peak_mb")]
    return [*scores, pairs, format(cell["file_mb"], ".1f"), *took]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(quantized.TASKS), default=())
    parser.add_argument("--formats", nargs="+", choices=tuple(quantized.FORMATS), default=())
    rows = (quantized.FLOAT, *quantized.METHODS, *quantized.PEERS)
    parser.add_argument("--methods", nargs="+", choices=rows, default=(), metavar="ROW", help="; ".join(rows))
    default = str(CACHE / "peers")
    parser.add_argument("--peers", default=default, metavar="DIR", help="stem of the tools' environments, or none")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for a cell")
    parser.add_argument("--resume", action="store_true", help="leave out cells that are finished")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        from quality.quantized_cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell)))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    results = BOOK.read()
    if not options.show:
        done = table.finished(results) if options.resume else set()
        with tempfile.TemporaryDirectory() as scratch:
            run = Runner(options, results, scratch, console)
            BOOK.fill(results, (cell for cell in wanted(options) if cell not in done), run, console)
    show(results, options, console)


if __name__ == "__main__":
    main()
