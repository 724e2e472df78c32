"""Loading, checking and saving ONNX: seconds and peak memory against onnx, onnx-ir and onnx-graphsurgeon.

    python benchmarks/ir.py [--runs 5] [--models chain decoder] [--folder /tmp]

Four models are made, the same ones every time: `chain` (9,600 small ops, 632 MB of external weights), `decoder` (28
transformer layers, 1.67 GB external), `resnet` (102 MB inside the model file) and `large` (40 layers, 2.5 GB
external). Each library loads and saves each of them in a fresh process, the libraries taking turns, with the files in
the page cache and nothing waiting to be written to disk. Medians go to the screen and to `results/ir.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

RESULTS = Path(__file__).parent / "results" / "ir.json"
MODELS = ("chain", "decoder", "resnet", "large")
STEPS = ("import", "load", "verify", "save")
PACKAGES = {"secateur": "secateur", "onnx-ir": "onnx-ir", "onnx": "onnx", "graphsurgeon": "onnx-graphsurgeon"}
SMALL_ONLY = {"graphsurgeon": {"large"}}
"""Libraries that would need several times the size of these models in memory are spared them."""

Clock = Callable[[str], None]
"""Called with the name of the step that has just ended."""


def run_secateur(source: str, target: str, external: bool, done: Clock) -> None:
    """Load, verify, save."""
    from secateur.ir import onnx_read

    done("import")
    graph = onnx_read.load(source)
    done("load")
    graph.verify()
    done("verify")
    graph.save(target, external_data=external)
    done("save")


def run_onnx_ir(source: str, target: str, external: bool, done: Clock) -> None:
    """Load and save; it has no verifier of its own."""
    import onnx_ir

    done("import")
    model = onnx_ir.load(source)
    done("load")
    onnx_ir.save(model, target, external_data="model.onnx.data" if external else None)
    done("save")


def run_onnx(source: str, target: str, external: bool, done: Clock) -> None:
    """Load, check, save. The checker takes the path, since a model above 2 GB cannot be checked in memory."""
    import onnx

    done("import")
    model = onnx.load(source)
    done("load")
    onnx.checker.check_model(source)
    done("verify")
    onnx.save(model, target, save_as_external_data=external, location="model.onnx.data" if external else None)
    done("save")


def run_graphsurgeon(source: str, target: str, external: bool, done: Clock) -> None:
    """Load and import, sort (its check for cycles), export and save."""
    import onnx
    import onnx_graphsurgeon

    done("import")
    graph = onnx_graphsurgeon.import_onnx(onnx.load(source))
    done("load")
    graph.toposort()
    done("verify")
    model = onnx_graphsurgeon.export_onnx(graph)
    onnx.save(model, target, save_as_external_data=external, location="model.onnx.data" if external else None)
    done("save")


RUNNERS = {"secateur": run_secateur, "onnx-ir": run_onnx_ir, "onnx": run_onnx, "graphsurgeon": run_graphsurgeon}


def measure_here(library: str, source: str, target: str, external: bool) -> dict[str, float]:
    """Seconds of each step in this process, and the peak of its memory in MB, interpreter and imports included."""
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def done(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[step], last = now - last, now

    RUNNERS[library](source, target, external, done)
    return seconds | {"peak_mb": peak_mb()}


def peak_mb() -> float:
    """The most memory that this process ever had resident. (`ru_maxrss` would start from the parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not say VmHWM")


def measure(library: str, source: Path, folder: Path, external: bool) -> dict[str, float]:
    """`measure_here` in a fresh process that writes into a fresh folder."""
    target = folder / "out"
    target.mkdir()
    os.sync()
    command = [sys.executable, __file__, "--measure", library, str(source), str(target / "model.onnx"), str(external)]
    try:
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    finally:
        shutil.rmtree(target)
    return dict(json.loads(printed))


def benchmark(names: list[str], runs: int, folder: Path, console: Console) -> dict[str, Any]:
    """All measurements: model -> library -> step -> one number for each run."""
    import ir_models  # here, since it imports onnx, which the measured processes are to import themselves

    results: dict[str, Any] = {}
    for name in names:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch, "model.onnx")
            external = ir_models.MODELS[name](source)
            libraries = [library for library in RUNNERS if name not in SMALL_ONLY.get(library, ())]
            taken: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
            for run in range(runs):
                for library in libraries if run % 2 == 0 else reversed(libraries):
                    with console.status(f"{name}, run {run + 1} of {runs}: {library}"):
                        taken[library].append(measure(library, source, Path(scratch), external))
            size = sum(file.stat().st_size for file in Path(scratch).iterdir())
        results[name] = {"bytes": size, "runs": taken}
    return results


def report(results: dict[str, Any], console: Console) -> None:
    """Medians as a table."""
    table = Table(
        "model", "MB", Column("library", no_wrap=True), *STEPS, "all [s]", "peak [MB]", title="ONNX in and out: seconds"
    )
    for name, result in results.items():
        first = (name, f"{result['bytes'] / 1e6:,.0f}")
        for library, runs in result["runs"].items():
            medians = {step: statistics.median(run.get(step, 0.0) for run in runs) for step in (*STEPS, "peak_mb")}
            total = statistics.median(sum(run.get(step, 0.0) for step in STEPS) for run in runs)
            cells = [f"{medians[step]:.2f}" if medians[step] else "-" for step in STEPS]
            table.add_row(*first, library, *cells, f"{total:.2f}", f"{medians['peak_mb']:,.0f}")
            first = ("", "")
        table.add_section()
    console.print(table)


def machine() -> dict[str, Any]:
    """What ran it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {library: importlib.metadata.version(package) for library, package in PACKAGES.items()}
    for package in ("numpy", "networkx", "protobuf"):
        versions[package] = importlib.metadata.version(package)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each library does each model")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--folder", type=Path, default=None, help="where to put up to 6 GB for a while")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        library, source, target, external = options.measure
        print(json.dumps(measure_here(library, source, target, external == "True")))
        return
    console = Console()
    folder = options.folder or Path(tempfile.gettempdir())
    results = benchmark(options.models, options.runs, folder, console)
    report(results, console)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine(), "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
