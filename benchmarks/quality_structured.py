"""What structured pruning costs in quality, on trained models, judged on data that was not calibrated on.

    python benchmarks/quality_structured.py [--models resnet ...] [--amounts 50 ...] [--methods obs ...] [--resume]

A row is a pipeline, so that the table is the ablation, too: what chooses, what repairs, how the share is spread. Beside
them onnxsim's structured pruning (by L2 norms, and Wanda's, calibrated on the same data) and Torch-Pruning's by
magnitude, at the same kept sizes; where a tool groups otherwise, at the same multiply-accumulates (its own search for
the ratio). What no tool of them can prune is said.

Models, data and packages are fetched or trained once into `~/.cache/secateur` (SECATEUR_QUALITY names another folder
for this benchmark's). `--models`, `--amounts` and `--methods` select rows by part of a name (`default` is `prune` with
no options but how much goes); a criterion, repair or allocation that this checkout lacks is left out by name. Every
cell has a process of its own, and is written to `results/quality_structured.json` as soon as it is finished;
`--resume` leaves out those that are there. `--show` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pruning import HERE, Result, machine, measure, peers_python
from quality.methods import missing
from quality.task import CACHE, Task, pipeline
from quality.tasks import TASKS
from rich.console import Console
from rich.table import Column, Table

RESULTS = HERE / "results" / "quality_structured.json"
DENSE = "dense"
LIMIT = 5400
"""Seconds for one cell."""
Cell = tuple[str, str, str]


def wanted(options: argparse.Namespace) -> Iterator[Cell]:
    """(task, amount, method) of the cells that were asked for, peers last."""

    def some(words: Sequence[str], name: str, known: Collection[str] = ()) -> bool:
        return not words or any(word == name if word in known else word in (name or "default") for word in words)

    for name, task in TASKS.items():
        if name not in (options.models or TASKS):
            continue
        yield name, "", DENSE
        for amount in task.amounts:
            methods = [*task.methods, *(() if options.peers == "none" else task.peers)]
            methods += [one for one in options.methods if "=" in one and not any(one in known for known in methods)]
            if some(options.amounts, amount, task.amounts):
                yield from ((name, amount, method) for method in methods if some(options.methods, method))


def run(cell: Cell, results: Result, python: str | None, scratch: str) -> Result:
    """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`."""
    name, amount, method = cell
    task = TASKS[name]
    here = [sys.executable, str(HERE / "quality_structured.py"), "--cell", name, amount]
    if method not in task.peers:
        lacking = None if method == DENSE else missing(task.amounts[amount], method)
        return {"skipped": lacking} if lacking else measure([*here, method], LIMIT)
    if python is None:
        return {"skipped": "no peers"}
    told = peer_amount(cell, results)
    if told is None:
        return {"skipped": "our row comes first: it says how many multiply-accumulates are left"}
    file = str(Path(scratch, "pruned.onnx"))
    command = [str(HERE / "quality" / "peers.py"), method, name, str(task.model()), told, calibration(name, scratch)]
    made = measure([python, *command, file], LIMIT)
    return made if "failure" in made else {**made, **measure([*here, file], LIMIT)}


def peer_amount(cell: Cell, results: Result) -> str | None:
    """How much a peer is to take away: the same share of the same groups, or what is left of ours in MACs."""
    name, amount, _ = cell
    own = TASKS[name].amounts[amount]
    if "EXPANDED" not in own:
        return own
    ours = [one["macs"] for one in results["cells"] if (one["model"], one["amount"]) == cell[:2] and "processor" in one]
    return f"budget=macs:{ours[0]}" if ours else None


def calibration(name: str, scratch: str) -> str:
    """A file of the task's calibration data, for other programs: arrays named `NUMBER/INPUT`."""
    path = Path(scratch, f"{name}.npz")
    if not path.is_file():
        batches = TASKS[name].calibrate()
        np.savez(path, **{f"{at}/{key}": array for at, feeds in enumerate(batches) for key, array in feeds.items()})
    return str(path)


def show(results: Result, options: argparse.Namespace, console: Console) -> None:
    """One table for each model."""
    cells: list[dict[str, Any]] = results.get("cells", [])
    for name, task in TASKS.items():
        if name not in (options.models or TASKS):
            continue
        table = Table("how much goes", Column("method", overflow="fold"), title=task.title)
        for heading in (*(metric.name for metric in task.metrics), "MACs %", "seconds", "peak MB"):
            table.add_column(heading, justify="right")
        for amount in ("", *task.amounts):
            rows = [cell for cell in cells if (cell["model"], cell["amount"]) == (name, amount)]
            known = [DENSE, *task.methods, *task.peers]
            rows.sort(key=lambda cell: known.index(cell["method"]) if cell["method"] in known else len(known))
            for cell in (cell for cell in rows if "skipped" not in cell):
                table.add_row(amount, cell["method"] or "default", *figures(cell, task))
            if rows:
                table.add_section()
        if table.row_count:
            console.print(table)
    left_out = {
        f"{cell['model']}, {cell['method']}: {cell['skipped']}"
        for cell in cells
        if "skipped" in cell and cell["model"] in (options.models or TASKS)
    }
    for line in sorted(left_out):
        console.print(f"- {line}", markup=False, highlight=False)


def figures(cell: Result, task: Task) -> list[str]:
    """The cells of a row behind its names."""
    if reason := cell.get("failure"):
        return [reason[:60], *[""] * (len(task.metrics) + 2)]
    scores = [format(cell["scores"][metric.name], metric.form) for metric in task.metrics]
    took = [format(cell[key], ".0f") if key in cell else "-" for key in ("seconds", "peak_mb")]
    return [*scores, format(100 * cell["macs"], ".1f"), *took]


def read() -> Result:
    """What `RESULTS` has."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.is_file() else {}


def save(results: Result) -> None:
    """To `RESULTS`, beside it first."""
    RESULTS.parent.mkdir(exist_ok=True)
    draft = RESULTS.with_suffix(".draft")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(RESULTS)


def record(results: Result, cell: Cell, found: Result) -> None:
    """Puts a cell in the place of its older self."""
    name, amount, method = cell
    own = TASKS[name].amounts.get(amount, "")
    is_ours = method != DENSE and method not in TASKS[name].peers
    row = {"model": name, "amount": amount, "method": method, "pipeline": pipeline(own, method) if is_ours else None}
    others = [one for one in results.get("cells", []) if (one["model"], one["amount"], one["method"]) != cell]
    results["cells"] = [*others, row | found]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=tuple(TASKS), default=())
    parser.add_argument("--amounts", nargs="+", default=(), help="parts of the names of amounts")
    parser.add_argument("--methods", nargs="+", default=(), help="parts of methods; a whole one with = is added")
    default = str(CACHE / "peers")
    parser.add_argument("--peers", default=default, metavar="DIR", help="the peers' environment, or none")
    parser.add_argument("--resume", action="store_true", help="leave out cells that are finished")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        from quality.cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell)))
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    results = read()
    if not options.show:
        fill(results, options, console)
    show(results, options, console)


def fill(results: Result, options: argparse.Namespace, console: Console) -> None:
    """Runs what was asked for."""
    results["machine"] = machine()
    done = {(one["model"], one["amount"], one["method"]) for one in results.get("cells", []) if "scores" in one}
    cells = [cell for cell in wanted(options) if not (options.resume and cell in done)]
    python = None
    if any(method in TASKS[name].peers for name, _, method in cells):
        python, versions = peers_python(options.peers, console)
        results["peers"] = json.loads(versions) if python else versions
    with tempfile.TemporaryDirectory() as scratch:
        for index, cell in enumerate(cells):
            console.print(f"{index + 1}/{len(cells)}", *cell, markup=False, highlight=False)
            found = run(cell, results, python, scratch)
            console.print("   ", json.dumps(found)[:300], markup=False, highlight=False)
            results["cells"] = read().get("cells", [])  # another run may have written some
            record(results, cell, found)
            save(results)


if __name__ == "__main__":
    main()
