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
from collections.abc import Iterator
from pathlib import Path

from pruning import HERE, Result, measure
from quality import layout, quantized, table
from quality.task import Task

BOOK = table.Book(HERE / "results" / "quality_quantized.json")


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
    """Runs cells, each tool in an environment of its own, made when it is asked for."""

    def __init__(self, desk: layout.Desk) -> None:
        self.desk = desk
        self.pythons: dict[str, str | None] = {}

    def __call__(self, cell: table.Cell) -> Result:
        """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`."""
        name, form, method = cell
        here = [sys.executable, str(HERE / "quality_quantized.py"), "--cell", name, form]
        if method not in quantized.PEERS:
            row = quantized.METHODS.get(method)
            return {"pipeline": row and row.pipeline(form), **measure([*here, method], self.desk.options.limit)}
        python = self._python(quantized.PEERS[method])
        if python is None:
            return {"skipped": "its environment could not be made"}
        task, file = quantized.TASKS[name], str(Path(self.desk.scratch, "quantized.onnx"))
        data = table.calibration(name, task, self.desk.scratch)
        kind = "transformer" if name in quantized.TRANSFORMERS else ""
        command = [python, str(HERE / "quality" / "quantized_peers.py"), method, quantized.FORMATS[form]]
        made = measure([*command, str(task.model()), data, file, kind], self.desk.options.limit)
        if "failure" in made or "skipped" in made:
            return made
        return {**made, **measure([*here, file], self.desk.options.limit)}

    def _python(self, name: str) -> str | None:
        if name not in self.pythons:
            place = Path(f"{self.desk.options.peers}-{name}")
            self.pythons[name], found = table.environment(place, quantized.ENVIRONMENTS[name], self.desk.console)
            self.desk.results.setdefault("peers", {})[name] = found
        return self.pythons[name]


def known_methods(task: Task) -> list[str]:
    """In the order of the rows."""
    return [quantized.FLOAT, *quantized.METHODS, *quantized.PEERS]


def pairs(row: Result) -> str:
    """How many Q and DQ ops there are."""
    return f"{row['quantizers']} / {row['dequantizers']}" if "quantizers" in row else "-"


COLUMNS = {
    "Q / DQ": pairs,
    "file MB": layout.number("file_mb", ".1f"),
    "processor s": layout.number("processor", ".0f"),
    "peak MB": layout.number("peak_mb", ".0f"),
}


def main() -> None:
    """The command line."""
    parser = layout.arguments(__doc__, quantized.TASKS, "stem of the tools' environments")
    parser.add_argument("--formats", nargs="+", choices=tuple(quantized.FORMATS), default=())
    rows = (quantized.FLOAT, *quantized.METHODS, *quantized.PEERS)
    parser.add_argument("--methods", nargs="+", choices=rows, default=(), metavar="ROW", help="; ".join(rows))
    options = parser.parse_args()
    if options.cell:
        from quality.quantized_cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell)))
        return
    shown = layout.Layout(quantized.TASKS, "format", known_methods, COLUMNS)
    shown.fill(BOOK, options, wanted(options), Runner)


if __name__ == "__main__":
    main()
