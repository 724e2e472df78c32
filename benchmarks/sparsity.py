"""2:4 over large models, and checking it: seconds and peak memory, whole processes.

    python benchmarks/sparsity.py [--runs 3] [--models bert chain stack] [--peers] [--folder /tmp]

`chain` is that of `benchmarks/ir.py` (2,400 matrices, 632 MB of external weights), `bert` has the shapes of BERT-base's
layers (340 MB inside the model file). `mask` loads, masks every weight by magnitude and saves; `check` is
`secateur sparsity`; with `--peers`, `polygraphy inspect sparsity` does the same, which takes minutes. `stack` has
4.3 GB of external weights, which `sparsegpt` prunes and updates on calibration data, to see whether that streams; it is
run once, if asked for. Each runs in a fresh process with the files in the page cache. Medians go to the screen and
to `results/sparsity.json`, where those of other models stay.
"""

from __future__ import annotations

import argparse
import json
import os
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
from rich.table import Table

from ir import machine, peak_mb

RESULTS = Path(__file__).parent / "results" / "sparsity.json"
TOKENS = 512
"""Rows of calibration data for `sparsegpt`."""


def bert(path: Path, layers: int = 12, width: int = 768, inner: int = 3072) -> bool:
    """Twelve layers of BERT-base without head split: matrices of 768 x 768 and 768 x 3072."""
    from ir_models import Builder

    build, value = Builder(path, external=False), "x"
    for _ in range(layers):
        query, keys, values = (build.op("MatMul", value, build.weight(width, width)) for _ in range(3))
        scores = build.op("MatMul", query, build.op("Transpose", keys, perm=[0, 2, 1]))
        mixed = build.op("MatMul", build.op("Softmax", scores, axis=-1), values)
        value = build.op("Add", value, build.op("MatMul", mixed, build.weight(width, width)))
        hidden = build.op("Relu", build.op("MatMul", value, build.weight(width, inner)))
        value = build.op("Add", value, build.op("MatMul", hidden, build.weight(inner, width)))
    return build.finish(["batch", 128, width], value, width)


def stack(path: Path, blocks: int = 256, width: int = 1024, inner: int = 2048) -> bool:
    """Residual feed-forward blocks behind norms: 4.3 GB external."""
    from ir_models import Builder

    build, value = Builder(path, external=True), "x"
    for _ in range(blocks):
        normal = build.op("LayerNormalization", value, build.weight(width), axis=-1)
        hidden = build.op("Relu", build.op("MatMul", normal, build.weight(width, inner)))
        value = build.op("Add", value, build.op("MatMul", hidden, build.weight(inner, width)))
    return build.finish(["batch", width], value, width)


def mask(source: str, target: str, external: bool) -> None:
    """Load, mask, save."""
    from secateur.ir.onnx_read import load
    from secateur.passes.context import Context
    from secateur.passes.manager import run_pipeline
    from secateur.passes.pipeline import parse_pipeline

    graph = load(source)
    done = run_pipeline(graph, parse_pipeline("sparsify{criterion=magnitude, repair=none}"), Context())
    done.graph.save(target, external_data=external)


def sparsegpt(source: str, target: str, external: bool) -> None:
    """Load, calibrate, mask and update by SparseGPT, save."""
    import numpy as np

    import secateur as sc

    batches = np.random.default_rng(0).standard_normal((TOKENS // 64, 64, 1024), np.float32)
    passes = "sparsify{criterion=sparsegpt, repair=sweep}"
    done = sc.compress(sc.load(source), passes, data=[{"x": batch} for batch in batches])
    done.graph.save(target, external_data=external)


def check(source: str, target: str, external: bool) -> None:
    """Which weights are 2:4."""
    from secateur.sparsity import sparsity_report

    assert sparsity_report(source).weights


def polygraphy(source: str, target: str, external: bool) -> None:
    """The same by NVIDIA's checker."""
    code = "from polygraphy.tools import main; main()"
    subprocess.run([sys.executable, "-c", code, "inspect", "sparsity", source], check=True, stdout=subprocess.DEVNULL)


JOBS: dict[str, Callable[[str, str, bool], None]] = {
    "mask": mask,
    "sparsegpt": sparsegpt,
    "check": check,
    "polygraphy": polygraphy,
}
MODELS = {
    "bert": ("mask", "check", "polygraphy"),
    "chain": ("mask", "check", "polygraphy"),
    "stack": ("sparsegpt", "check"),
}
"""What is done with each, in this order."""


def measure_here(job: str, source: str, target: str, external: bool) -> dict[str, float]:
    """Seconds without imports, processor seconds, and the peak of this process's memory in MB, imports included."""
    if job != "polygraphy":
        import secateur.passes.sparsify.elements
        import secateur.sparsity  # noqa: F401  (imports are not what is measured)
    started, spent = time.perf_counter(), time.process_time()
    JOBS[job](source, target, external)
    seconds, processor = time.perf_counter() - started, time.process_time() - spent
    return {"seconds": seconds, "processor_seconds": processor, "peak_mb": peak_mb()}


def measure(job: str, source: Path, target: Path, external: bool) -> dict[str, float]:
    """`measure_here` in a fresh process."""
    os.sync()
    command = [sys.executable, __file__, "--measure", job, str(source), str(target), str(external)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(printed))


def benchmark(names: list[str], has_peers: bool, runs: int, folder: Path, console: Console) -> dict[str, Any]:
    """All measurements: model -> job -> one entry for each run; checks look at what masking wrote."""
    import ir_models

    makers: dict[str, Callable[[Path], bool]] = {"bert": bert, "chain": ir_models.chain, "stack": stack}
    results: dict[str, Any] = {}
    for name in names:
        scratch = Path(tempfile.mkdtemp(dir=folder))
        try:
            source, target = scratch / "model.onnx", scratch / "out" / "model.onnx"
            target.parent.mkdir()
            external = makers[name](source)
            results[name] = {}
            for job in MODELS[name]:
                if job == "polygraphy" and not has_peers:
                    continue
                with console.status(f"{name}: {job}"):
                    given = source if job in ("mask", "sparsegpt") else target
                    times = 1 if job == "sparsegpt" else runs
                    results[name][job] = [measure(job, given, target, external) for _ in range(times)]
        finally:
            shutil.rmtree(scratch)
    return results


def report(results: dict[str, Any], console: Console) -> None:
    """Medians as a table."""
    table = Table("model", "job", "seconds", "processor seconds", "peak [MB]", title="2:4")
    for name, jobs in results.items():
        for job, runs in jobs.items():
            medians = [statistics.median(run[key] for run in runs) for key in runs[0]]
            table.add_row(name, job, *(f"{value:,.2f}" for value in medians))
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=["bert", "chain"])
    parser.add_argument("--peers", action="store_true", help="also polygraphy, which takes minutes")
    parser.add_argument("--folder", type=Path, default=None, help="where to put up to 1.3 GB for a while, or 9 GB")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        job, source, target, external = options.measure
        print(json.dumps(measure_here(job, source, target, external == "True")))
        return
    console = Console()
    folder = options.folder or Path(tempfile.gettempdir())
    results = benchmark(options.models, options.peers, options.runs, folder, console)
    report(results, console)
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text())["models"] if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({"machine": machine(), "models": known | results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
