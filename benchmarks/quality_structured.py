"""What structured pruning costs in quality, on trained models, judged on data that was not calibrated on.

    python benchmarks/quality_structured.py [--models resnet ...] [--amounts 50 ...] [--methods obs ...] [--resume]

A row is a pipeline, so that the table is the ablation, too: what chooses, what repairs, how the share is spread. Beside
them onnxsim's structured pruning (by L2 norms, and Wanda's, calibrated on the same data) and Torch-Pruning's by
magnitude, at the same kept sizes; where a tool groups otherwise, at the same multiply-accumulates (its own search for
the ratio). What no tool of them can prune is said.

Models, data and packages are fetched or trained once into `~/.cache/secateur` (SECATEUR_QUALITY names another folder
for this benchmark's). `--models`, `--amounts` and `--methods` select rows by names or parts of them (`default` is
`prune` with no options but how much goes); a criterion, repair or allocation that this checkout lacks is left out by
name. Every cell has a process of its own, and is written to `results/quality_structured.json` as soon as it is
finished; `--resume` leaves out those that are there. `--show` only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pruning import HERE, Result, measure
from quality import layout, table
from quality.methods import missing
from quality.task import Task, pipeline
from quality.tasks import TASKS

BOOK = table.Book(HERE / "results" / "quality_structured.json")
DENSE = "dense"
COLUMNS = {
    "MACs %": layout.number("macs", ".1f", 100),
    "seconds": layout.number("seconds", ".0f"),
    "peak MB": layout.number("peak_mb", ".0f"),
}


def wanted(options: argparse.Namespace) -> Iterator[table.Cell]:
    """(task, amount, method) of the cells that were asked for, peers last."""

    def some(words: Sequence[str], name: str, known: Collection[str]) -> bool:
        return not words or any(word == name if word in known else word in (name or "default") for word in words)

    for name, task in TASKS.items():
        if name not in (options.models or TASKS):
            continue
        yield name, "", DENSE
        for amount in task.amounts:
            methods = [*task.methods, *(() if options.peers == "none" else task.peers)]
            methods += [one for one in options.methods if "=" in one and not any(one in known for known in methods)]
            if some(options.amounts, amount, task.amounts):
                yield from ((name, amount, method) for method in methods if some(options.methods, method, methods))


class Runner:
    """Runs cells."""

    def __init__(self, desk: layout.Desk) -> None:
        self.desk = desk

    def __call__(self, cell: table.Cell) -> Result:
        """What one cell's process found, or `{"failure": ...}`, or `{"skipped": ...}`."""
        name, amount, method = cell
        task, limit = TASKS[name], self.desk.options.limit
        here = [sys.executable, str(HERE / "quality_structured.py"), "--cell", name, amount]
        if method not in task.peers:
            lacking = None if method == DENSE else missing(task.amounts[amount], method)
            text = None if method == DENSE else pipeline(task.amounts[amount], method)
            return {"pipeline": text, **({"skipped": lacking} if lacking else measure([*here, method], limit))}
        if self.desk.peers is None:
            return {"skipped": "no peers"}
        told = peer_amount(cell, self.desk.results)
        if told is None:
            return {"skipped": "our row comes first: it says how many multiply-accumulates are left"}
        file = str(Path(self.desk.scratch, "pruned.onnx"))
        data = table.calibration(name, task, self.desk.scratch)
        command = [str(HERE / "quality" / "peers.py"), method, name, str(task.model()), told, data]
        made = measure([self.desk.peers, *command, file], limit)
        return made if "failure" in made else {**made, **measure([*here, file], limit)}


def peer_amount(cell: table.Cell, results: Result) -> str | None:
    """How much a peer is to take away: the same share of the same groups, or what is left of ours in MACs."""
    name, amount, _ = cell
    own = TASKS[name].amounts[amount]
    if "EXPANDED" not in own:
        return own
    ours = [one["macs"] for one in results["cells"] if table.key(one)[:2] == cell[:2] and "processor" in one]
    return f"budget=macs:{ours[0]}" if ours else None


def known_methods(task: Task) -> list[str]:
    """In the order of the rows."""
    return [DENSE, *task.methods, *task.peers]


def main() -> None:
    """The command line."""
    parser = layout.arguments(__doc__, TASKS, "the peers' environment")
    parser.add_argument("--amounts", nargs="+", default=(), help="names of amounts, or parts of them")
    parser.add_argument("--methods", nargs="+", default=(), help="methods, or parts of them; a new one with = is added")
    options = parser.parse_args()
    if options.cell:
        from quality.cell import measure as measure_cell

        print("RESULT " + json.dumps(measure_cell(*options.cell)))
        return
    shown = layout.Layout(TASKS, "how much goes", known_methods, COLUMNS)
    shown.fill(BOOK, options, wanted(options), Runner)


if __name__ == "__main__":
    main()
