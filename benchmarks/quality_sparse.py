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

from pruning import HERE, Result, measure, peers_python
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


def known_methods(task: Task) -> list[str]:
    """In the order of the rows."""
    return [sparse.DENSE, *sparse.METHODS, *task.peers]


def fill(results: Result, options: argparse.Namespace) -> None:
    """Runs what was asked for."""
    console = layout.screen()
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
    results = BOOK.read()
    if not options.show:
        fill(results, options)
    layout.Layout(sparse.TASKS, "pattern", known_methods, COLUMNS).show(results, options.models)


if __name__ == "__main__":
    main()
