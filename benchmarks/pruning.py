"""Pruning half of every exact group: how fast beside Torch-Pruning and onnxsim, how it grows, how far it reaches.

    python benchmarks/pruning.py [--runs 3] [--peers DIR] [--parts speed growth reach oracle]

- speed: six models of the test zoo in true size. Seconds of shape inference, of the analysis of dimensions, of the
  whole `prune` pass (analysis and the default checks included); beside them Torch-Pruning's graph build alone and
  graph + init + step, and onnxsim's structured pruning, the peers in their defaults, at 50 %, on one thread.
- growth: residual networks made in memory, in two sizes each.
- reach: every model of the zoo's small, real, light and full groups. What is free, what is left of the parameters, and
  whether onnx's checker, onnxruntime and TensorRT-RTX (for a minute at most) take the dense and the pruned model.
- oracle: the light and the full group. How far the outputs of the pruned model are from those of the dense one in which
  the same units are masked.

The peers live in a virtual environment of their own, made in DIR at the first run (and kept); `--peers none` does
without. (PIP_EXTRA_INDEX_URL names an index with torch for processors alone, which is gigabytes smaller.) Each
measurement has a process of its own, one after another, on one thread. Seconds are those that the processor worked for
it, so that what else the machine does counts little. Medians go to the screen and, with every run, to
`results/pruning.json`; `--parts` replaces those parts there and leaves the others.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pruning.json"
PEERS = ("torch==2.13.0", "torch-pruning==1.6.1", "onnxsim==0.8.1", "transformers", "onnx", "onnxruntime")
PACKAGES = ("secateur", "numpy", "networkx", "onnx", "onnxruntime", "tensorrt-rtx-cu12", "tensorrt-rtx")
MODELS = ("resnet50", "densenet121", "vgg16", "vit", "bert", "llama")
GRAPHS = ("30 blocks of 512", "60 blocks of 512", "25,000 ops", "50,000 ops")
GOALS = {"60 blocks of 512": "< 0.3 s", "50,000 ops": "< 10 s"}
TAKERS = ("checker", "onnxruntime", "tensorrt-rtx")
PARTS = ("speed", "growth", "reach", "oracle")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
Result = dict[str, Any]


def measure(command: list[str], limit: int = 600) -> Result:
    """What a process prints behind `RESULT`, or `{"failure": ...}`."""
    try:
        done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failure": f"took longer than {limit} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode == 0 and lines:
        return dict(json.loads(lines[-1].removeprefix("RESULT ")))
    words = [line for line in done.stderr.splitlines() if line.strip()]
    return {"failure": f"process ended with {done.returncode}: {words[-1][:240] if words else 'nothing said'}"}


def ours(part: str, name: str, runs: int) -> Result:
    """`pruning_reach.py` in the environment of this process."""
    return measure([sys.executable, str(HERE / "pruning_reach.py"), part, name, str(runs)])


def peers_python(folder: str, console: Console) -> tuple[str | None, str]:
    """The interpreter of the peers' environment, made if need be, and what is in it; or None and why not."""
    if folder == "none":
        return None, "left out by --peers none"
    place = Path(folder).resolve()
    python = place / "bin" / "python"
    if not python.is_file():
        venv.create(place, with_pip=True)
    with console.status(f"{', '.join(PEERS)} into {place}"):
        made = subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], capture_output=True, text=True)
    if made.returncode:
        return None, f"pip failed: {made.stderr.strip().splitlines()[-1][:240]}"
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    names = [name.partition("==")[0] for name in PEERS]
    return str(python), subprocess.run([str(python), "-c", ask, *names], capture_output=True, text=True).stdout


def ask_zoo(question: str, *words: str) -> list[str]:
    """What an expression on the tests' `zoo` prints, word by word; it is asked in a process of its own."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from helpers.zoo import zoo; print({question})"
    command = [sys.executable, "-c", code, str(HERE.parent / "tests"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def run_speed(runs: int, python: str | None, console: Console) -> Result:
    """Model -> tool -> runs, share kept, failure."""
    results: Result = {}
    for name in MODELS:
        (path,) = ask_zoo("zoo('full')[sys.argv[2]].path()", f"{name}-full")
        with console.status(f"{name}: secateur"):
            results[name] = {"secateur": ours("speed", name, runs)}
        if python is None:
            continue
        peers = str(HERE / "pruning_peers.py")
        for tool, what in (("torch-pruning", name), ("onnxsim", path)):
            with console.status(f"{name}: {tool}"):
                results[name][tool] = measure([python, peers, tool, what, str(runs)])
    return results


def run_growth(runs: int, console: Console) -> Result:
    """Graph -> runs."""
    results: Result = {}
    for name in GRAPHS:
        with console.status(name):
            results[name] = ours("growth", name, runs)
    return results


def run_reach(console: Console) -> Result:
    """Model -> groups, share kept, what takes it."""
    return run_models("reach", "*zoo('small', 'real', 'light', 'full')", console)


def run_oracle(console: Console) -> Result:
    """Model -> error of the pruned beside the masked one."""
    return run_models("oracle", "*zoo('light', 'full')", console)


def run_models(part: str, question: str, console: Console) -> Result:
    """One part for each of these models."""
    names = ask_zoo(question)
    results: Result = {}
    for index, name in enumerate(names):
        with console.status(f"{name}, {index + 1} of {len(names)}"):
            results[name] = ours(part, name, 1)
    return results


def median(result: Result, *steps: str) -> float | None:
    """The median over the runs of the sum of these steps; None where a run does not have them."""
    runs = [run for run in result.get("runs", []) if all(step in run for step in steps)]
    return statistics.median(sum(run[step] for step in steps) for run in runs) if runs else None


def seconds(value: float | None) -> str:
    """Four decimals for what is short, two for the rest."""
    return "-" if value is None else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def share(result: Result) -> str:
    """Parameters kept in percent."""
    return f"{100 * result['kept']:.1f}" if "kept" in result else "-"


def show_speed(results: Result, console: Console) -> None:
    """One row for each model and tool. Torch-Pruning's `all` is graph + init + step; init makes the graph once more."""
    columns = ("shapes", "analysis", "graph", "all", "kept [%]", "free")
    table = Table("model", Column("tool", no_wrap=True), *columns, "remarks", title="Half of everything: seconds")
    for name, tools in results.items():
        first = name
        for tool, result in tools.items():
            whole = ("graph", "init", "step") if tool == "torch-pruning" else ("prune",)
            steps = [median(result, *step) for step in (("inference",), ("analysis",), ("graph",), whole)]
            remark = result.get("failure") or speed_remark(tool, tools)
            table.add_row(first, tool, *map(seconds, steps), share(result), str(result.get("free", "-")), remark)
            first = ""
        table.add_section()
    console.print(table)


def speed_remark(tool: str, tools: Result) -> str:
    """How the analysis compares, and what Torch-Pruning takes where the graph is made but once."""
    mine, other = tools["secateur"], tools.get("torch-pruning", {})
    alone, shaped, graph = median(mine, "analysis"), median(mine, "analysis", "inference"), median(other, "graph")
    if tool == "torch-pruning":
        return f"init + step: {seconds(median(other, 'init', 'step'))}"
    if tool == "secateur" and alone and shaped and graph:
        return f"analysis {graph / alone:.0f}x as fast as the graph build, {graph / shaped:.0f}x with shapes"
    return ""


def show_growth(results: Result, console: Console) -> None:
    """One row for each graph."""
    columns = ("ops", "shapes [s]", "analysis [s]", "goal", "us an op", "prune [s]", "kept [%]")
    table = Table("graph", *columns, "remarks", title="Growth")
    for name, result in results.items():
        analysis, ops = median(result, "analysis"), result.get("ops", 0)
        each = f"{1e6 * analysis / ops:.0f}" if analysis and ops else "-"
        figures = (seconds(median(result, "inference")), seconds(analysis), GOALS.get(name, ""), each)
        whole = seconds(median(result, "prune"))
        table.add_row(name, str(ops), *figures, whole, share(result), result.get("failure") or "")
    console.print(table)


def show_reach(results: Result, console: Console) -> None:
    """One row for each model; reasons below the table, each once."""
    columns = ("ops", "free", "inexact", "pinned", "kept [%]", *TAKERS)
    table = Table(Column("model", no_wrap=True), *columns, title="Reach: dense / pruned")
    reasons: dict[str, list[str]] = {}
    for name, result in results.items():
        cells = []
        for taker in TAKERS:
            pair = [result.get(state, {}).get(taker) for state in ("dense", "pruned")]
            cells.append(" / ".join("-" if one is None else "ok" if one == "ok" else "no" for one in pair))
            for state, one in zip(("dense", "pruned"), pair, strict=True):
                if one not in (None, "ok"):
                    reasons.setdefault(f"{taker}: {one}", []).append(f"{name} ({state})")
        if result.get("failure"):
            reasons.setdefault(result["failure"], []).append(name)
        if not result.get("free") and result.get("reasons"):
            reasons.setdefault(f"nothing is free: {'; '.join(result['reasons'])}", []).append(name)
        counts = [str(result.get(key, "-")) for key in ("ops", "free", "inexact", "pinned")]
        table.add_row(name, *counts, "failed" if result.get("failure") else share(result), *cells)
    console.print(table)
    for reason, names in reasons.items():
        console.print(f"- {', '.join(names)}: {reason}", markup=False, highlight=False)


def show_oracle(results: Result, console: Console) -> None:
    """One row for each model."""
    table = Table("model", "free groups", "largest error / largest output", "remarks", title="Removing beside masking")
    for name, result in results.items():
        error = f"{result['error']:.1e}" if "error" in result else "-"
        table.add_row(name, str(result.get("free", "-")), error, result.get("failure") or "")
    console.print(table)


def machine() -> Result:
    """What ran it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "memory_gib": round(memory / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "versions": versions,
    }


def processor() -> str:
    """The model name that the kernel knows, else the architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each tool does each model")
    default = str(Path(tempfile.gettempdir()) / "secateur-peers")
    parser.add_argument("--peers", default=default, metavar="DIR", help="the peers' environment, or none")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    console = Console()
    results: Result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results["machine"] = machine()
    RESULTS.parent.mkdir(exist_ok=True)
    if "speed" in options.parts:
        python, versions = peers_python(options.peers, console)
        results["peers"] = json.loads(versions) if python else versions
        results["speed"] = run_speed(options.runs, python, console)
        show_speed(results["speed"], console)
        if python is None:
            console.print(f"no peers: {versions}")
        save(results)
    if "growth" in options.parts:
        results["growth"] = run_growth(options.runs, console)
        show_growth(results["growth"], console)
        save(results)
    if "reach" in options.parts:
        results["reach"] = run_reach(console)
        show_reach(results["reach"], console)
        save(results)
    if "oracle" in options.parts:
        results["oracle"] = run_oracle(console)
        show_oracle(results["oracle"], console)
        save(results)


def save(results: Result) -> None:
    """To `RESULTS`."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
