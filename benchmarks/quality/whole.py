"""Tools side by side as whole processes on one processor core: how they are timed, and how that is shown."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pruning import ONE_THREAD, Result, machine
from rich.console import Console

from quality.task import CACHE

COLUMNS = {"seconds": ".1f", "processor": ".1f", "peak_mb": ".0f", "file_mb": ".1f"}
HEADINGS = ("tool", "wall s", "processor s", "peak MB", "file MB", "of the fastest peer's", "runs")
"""Of what `rows` has."""


def timed(words: list[str], output: Path) -> Result:
    """Wall and processor seconds and the largest resident memory of a process, and the size of what it wrote."""
    output.unlink(missing_ok=True)
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            ["taskset", "-c", str(max(os.sched_getaffinity(0))), *words],
            env=os.environ | ONE_THREAD,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        said.seek(0)
        words = [line for line in said.read().splitlines() if line.strip()]
    if process.returncode or not output.is_file():
        return {"failure": f"process ended with {process.returncode}: {words[-1][:240] if words else 'nothing said'}"}
    return {
        "seconds": seconds,
        "processor": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
        "file_mb": output.stat().st_size / 1e6,
        "load": os.getloadavg()[0],
    }


def median(runs: Sequence[Result], key: str) -> float | None:
    """Of those that ended well."""
    found = [one[key] for one in runs if key in one]
    return statistics.median(found) if found else None


def rows(tools: Mapping[str, Sequence[Result]], ours: Collection[str]) -> Iterator[list[str]]:
    """The cells of each tool; all but ours are peers."""
    times = {tool: median(runs, "processor") for tool, runs in tools.items()}
    best = min((one for tool, one in times.items() if tool not in ours and one), default=None)
    for tool, runs in tools.items():
        figures = [(median(runs, key), form) for key, form in COLUMNS.items()]
        cells = ["-" if figure is None else format(figure, form) for figure, form in figures]
        own = times[tool]
        ratio = f"1 / {best / own:.2f}" if best and own else "-"
        failed = next((one["failure"] for one in runs if "failure" in one), "")[:60]
        yield [tool, *cells, ratio, failed or str(len(runs))]


def arguments(description: str | None, tools: Sequence[str], job: int) -> argparse.ArgumentParser:
    """A command line with the options that these have; `job` is how many words a process of ours is told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each tool does it")
    parser.add_argument("--tools", nargs="+", choices=tools, default=tools)
    parser.add_argument("--peers", default=str(CACHE / "peers"), metavar="DIR", help="stem of the peers' environments")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--job", nargs=job, help=argparse.SUPPRESS)
    return parser


def fill(
    book: Path,
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace, Result, Console], None],
    show: Callable[[Result, Console], None],
) -> None:
    """Runs what was asked for, which adds to what the file has, and prints all."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    results: Result = json.loads(book.read_text()) if book.is_file() else {}
    if not options.show:
        results["machine"] = machine()
        run(options, results, console)
    show(results, console)
