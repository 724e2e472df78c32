"""INT8 with calibration: seconds and memory of whole processes, against onnxruntime, NNCF and modelopt.

    python benchmarks/quantize.py [--runs 3] [--models resnet50 bert] [--tools secateur ...] [--peers DIR]

ResNet-50 with 32 images, BERT-base with 16 texts of 128 tokens, one sample at a time: the models of the test zoo, with
random weights, on random data. A process imports its tool, reads the model, calibrates, and writes the quantized one;
the tools take turns. onnxruntime is spared the preparation that it recommends (`quant_pre_process`). All run on one
processor core, and the seconds that count are those that it worked. Medians go to the screen and to
`results/quantize.json`. The peers' environments are those of `quality_quantized.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pruning import HERE, ONE_THREAD, Result, ask_zoo, machine
from quality import quantized, table
from quality.task import CACHE, Feeds
from rich.console import Console
from rich.table import Table

BOOK = HERE / "results" / "quantize.json"
OURS = "secateur"
TOOLS = (OURS, "onnxruntime", "onnxruntime, for TensorRT", "NNCF", "modelopt")
MODELS = {"resnet50": "32 images", "bert": "16 x 128 tokens"}
LIMIT = 1800
COLUMNS = {"seconds": ".1f", "processor": ".1f", "peak_mb": ".0f", "file_mb": ".1f"}


def samples(name: str) -> list[Feeds]:
    """One sample in each batch."""
    random = np.random.default_rng(0)
    if name == "resnet50":
        return [{"pixel_values": random.standard_normal((1, 3, 224, 224), dtype=np.float32)} for _ in range(32)]
    fixed = {"attention_mask": np.ones((1, 128), np.int64), "token_type_ids": np.zeros((1, 128), np.int64)}
    return [{"input_ids": random.integers(0, 30522, (1, 128)), **fixed} for _ in range(16)]


def command(tool: str, python: str, name: str, files: tuple[str, str, str]) -> list[str]:
    """What a tool's process runs."""
    if tool == OURS:
        return [python, str(Path(__file__)), "--job", *files]
    kind = ["unprepared", *(["transformer"] if name == "bert" else [])]
    return [python, str(HERE / "quality" / "quantized_peers.py"), tool, "int8", *files, *kind]


def job(model: str, data: str, output: str) -> None:
    """Ours."""
    import secateur as sc

    with np.load(data) as arrays:
        batches: dict[str, Feeds] = {}
        for key in arrays.files:
            number, _, name = key.partition("/")
            batches.setdefault(number, {})[name] = arrays[key]
    sc.compress(sc.load(model), "quantize", data=list(batches.values())).graph.save(output)


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


def run(options: argparse.Namespace, results: Result, console: Console) -> None:
    """Model -> tool -> runs."""
    pythons: dict[str, str | None] = {OURS: sys.executable}
    for tool in options.tools:
        if tool != OURS:
            name = quantized.PEERS[tool]
            place = Path(f"{options.peers}-{name}")
            pythons[tool], versions = table.environment(place, quantized.ENVIRONMENTS[name], console)
            results.setdefault("peers", {})[name] = versions
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch, "quantized.onnx")
        for name in options.models:
            (model,) = ask_zoo("zoo('full')[sys.argv[2]].path()", f"{name}-full")
            data = str(Path(scratch, f"{name}.npz"))
            feeds = {f"{at}/{key}": array for at, one in enumerate(samples(name)) for key, array in one.items()}
            np.savez(data, **feeds)
            found: dict[str, list[Result]] = {tool: [] for tool in options.tools}
            for _ in range(options.runs):
                for tool in options.tools:
                    python = pythons[tool]
                    if python is None:
                        continue
                    once = timed(command(tool, python, name, (model, data, str(output))), output)
                    console.print(name, tool, json.dumps(once), markup=False, highlight=False)
                    found[tool].append(once)
                    results.setdefault("models", {}).setdefault(name, {}).update(found)
                    BOOK.write_text(json.dumps(results, indent=1) + "\n")


def median(runs: list[Result], key: str) -> float | None:
    """Of those that ended well."""
    found = [one[key] for one in runs if key in one]
    return statistics.median(found) if found else None


def show(results: Result, console: Console) -> None:
    """One row for each model and tool."""
    shown = Table("model", "tool", "wall s", "processor s", "peak MB", "file MB", "of the fastest peer's", "runs")
    for name, tools in results.get("models", {}).items():
        times: dict[str, Any] = {tool: median(runs, "processor") for tool, runs in tools.items()}
        best = min((one for tool, one in times.items() if tool != OURS and one), default=None)
        for tool, runs in tools.items():
            figures = [(median(runs, key), form) for key, form in COLUMNS.items()]
            cells = ["-" if figure is None else format(figure, form) for figure, form in figures]
            ratio = f"1 / {best / times[tool]:.2f}" if best and times[tool] else "-"
            failed = next((one["failure"] for one in runs if "failure" in one), "")[:60]
            shown.add_row(f"{name}, {MODELS[name]}", tool, *cells, ratio, failed or str(len(runs)))
        shown.add_section()
    console.print(shown)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each tool does each model")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--peers", default=str(CACHE / "peers"), metavar="DIR", help="stem of the tools' environments")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    console = Console(width=None if sys.stdout.isatty() else 150)
    results: Result = json.loads(BOOK.read_text()) if BOOK.is_file() else {}
    if not options.show:
        results["machine"] = machine()
        run(options, results, console)
    show(results, console)


if __name__ == "__main__":
    main()
