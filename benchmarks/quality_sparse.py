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
from collections.abc import Iterator
from pathlib import Path

from pruning import HERE, Result, measure
from quality import layout, reference, sparse, table
from quality.task import Task

BOOK = table.Book(HERE / "results" / "quality_sparse.json")
COLUMNS = {
    "sparse %": layout.number("sparse", ".1f", 100),
    "zeros %": layout.number("zeros", ".1f", 100),
    "processor s": layout.number("processor", ".0f"),
    "peak MB": layout.number("peak_mb", ".0f"),
}


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


class Runner:
    """Runs cells."""

    def __init__(self, desk: layout.Desk) -> None:
        self.desk = desk
        reference = str(desk.options.reference or "")
        self.here = [sys.executable, str(HERE / "quality_sparse.py"), "--reference", reference, "--cell"]

    def __call__(self, cell: table.Cell) -> Result:
        """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`, and the pipeline."""
        ours = sparse.METHODS.get(cell[2])
        return {"pipeline": ours and ours.pipeline(cell[1]), **self._found(*cell)}

    def _found(self, name: str, pattern: str, method: str) -> Result:
        options, here = self.desk.options, [*self.here, name, pattern]
        if method in sparse.REFERENCES and (lacking := reference.missing(method, options.reference)):
            return {"skipped": lacking}
        if method not in sparse.ONNXSIM:
            return measure([*here, method], options.limit)
        if self.desk.peers is None:
            return {"skipped": "no environment for onnxsim"}
        task, file = sparse.TASKS[name], str(Path(self.desk.scratch, "sparse.onnx"))
        data = table.calibration(name, task, self.desk.scratch)
        command = [self.desk.peers, str(HERE / "quality" / "sparse_peers.py"), method, sparse.PATTERNS[pattern]]
        made = measure([*command, str(task.model()), data, file], options.limit)
        return made if "failure" in made else {**made, **measure([*here, file], options.limit)}


def known_methods(task: Task) -> list[str]:
    """In the order of the rows."""
    return [sparse.DENSE, *sparse.METHODS, *task.peers]


def main() -> None:
    """The command line."""
    parser = layout.arguments(__doc__, sparse.TASKS, "onnxsim's environment")
    parser.add_argument("--amounts", nargs="+", choices=tuple(sparse.PATTERNS), default=())
    rows = (*sparse.METHODS, *sparse.REFERENCES, *sparse.ONNXSIM)
    parser.add_argument("--methods", nargs="+", choices=rows, default=(), metavar="ROW", help="; ".join(rows))
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkouts of sparsegpt and wanda")
    options = parser.parse_args()
    if options.cell:
        from quality.sparse_cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell, reference=str(options.reference or ""))))
        return
    shown = layout.Layout(sparse.TASKS, "pattern", known_methods, COLUMNS)
    shown.fill(BOOK, options, wanted(options), Runner)


if __name__ == "__main__":
    main()
