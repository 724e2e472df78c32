"""What pruning one layer with compensation costs, and what it leaves: ours beside the published SparseGPT.

    python benchmarks/sweep.py --reference SPARSEGPT [--sizes 1024 4096] [--runs 3] [--quick]

SPARSEGPT is a checkout of github.com/IST-DASLab/sparsegpt, whose class is run as it is, on a CPU (its call that waits
for a GPU does nothing then). Without it the paper's own order of work, blocks of 128 columns in torch float32, stands
in, and is labelled so. Both get the same weights and the same Gram matrix, of inputs whose spectrum decays like those
of language models.

- 2:4, half unstructured, GPTQ on a grid of 16 levels: factorization and sweep together, float32 and float64.
- The error tr((W' - W) H (W' - W)^T), damped, relative to that of the published sweep: ours, the same mask with exact
  least squares, swaps and least squares, ADMM and least squares. On the smallest size only, where all are quick.
- The Gram matrix of 32,768 rows.

One thread, each measurement in a process of its own, one after another; seconds are those of the processor. Medians
go to the screen and, with every run, as they come, to `results/sweep.json`. `--quick` runs a small size once and
writes nothing.
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
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

Array = np.ndarray[Any, Any]
Result = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "sweep.json"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
PACKAGES = ("numpy", "scipy", "torch")
KINDS = ("2:4", "half", "gptq")
WAYS = ("published", "float32", "float64")
LEVELS, ROWS = 16, 32768


def layer(size: int) -> tuple[Array, Array]:
    """Weights [size, size] and the Gram of inputs with a few large directions and a long tail."""
    random = np.random.default_rng(0)
    mixed = random.normal(size=(size, size)).astype(np.float32) / np.float32(size**0.5)
    spread = (np.arange(1, size + 1) ** -0.6).astype(np.float32)
    x = (random.normal(size=(size + size // 2, size)).astype(np.float32) * spread) @ mixed
    return random.normal(size=(size, size)).astype(np.float32), x.T @ x


def scales(weight: Array) -> Array:
    """[r] the step of a symmetric grid of `LEVELS`."""
    return np.asarray(np.abs(weight).max(axis=1) / (LEVELS // 2 - 1))


def ours(kind: str, dtype: str, size: int) -> tuple[Result, Array]:
    """Factor and sweep: (seconds and error, weights)."""
    from secateur.calib.solvers import column_sweep as sweep

    weight, gram = layer(size)
    step = scales(weight).astype(dtype)
    choice = {
        "2:4": sweep.keep_of(2, 4),
        "half": sweep.keep_share(0.5),
        "gptq": sweep.rounded(lambda values, _: np.clip(np.round(values / step), -LEVELS // 2, LEVELS // 2 - 1) * step),
    }[kind]
    start = time.process_time()
    made = sweep.factor(gram, dtype=dtype)
    middle = time.process_time()
    swept = sweep.column_sweep(weight, made, choice)
    end = time.process_time()
    return {"seconds": end - start, "factor": middle - start, "error": error(swept.weight, weight, gram)}, swept.weight


def error(found: Array, weight: Array, gram: Array) -> float:
    """tr((W' - W) H (W' - W)^T) with the damped H, relative to tr(W H W^T)."""
    damped = gram.astype(np.float64)
    np.einsum("ii->i", damped)[...] += 0.01 * gram.diagonal().mean(dtype=np.float64)
    change, whole = found.astype(np.float64) - weight, weight.astype(np.float64)
    return float(np.vdot(change @ damped, change) / np.vdot(whole @ damped, whole))


def published(kind: str, size: int, reference: str | None) -> tuple[Result, Array]:
    """The class of the checkout, or without one the same work."""
    import torch

    torch.set_num_threads(1)
    weight, gram = layer(size)
    module = torch.nn.Linear(size, size, bias=False)
    module.weight.data = torch.from_numpy(weight.copy())
    given = torch.from_numpy(gram.copy())
    grid = Grid(torch.from_numpy(scales(weight))[:, None]) if kind == "gptq" else None
    if reference is None:
        start = time.process_time()
        found = plain(module.weight.data, given, kind, grid)
        seconds = time.process_time() - start
    else:
        pruner = checkout(reference)(module)
        pruner.H, amount = given, 0.0 if kind == "gptq" else 0.5
        if grid is not None:
            pruner.quantizer = grid
            # Its sparsity of zero still takes out the smallest entry of each block.
        pattern = {"prunen": 2, "prunem": 4} if kind == "2:4" else {}
        start = time.process_time()
        with torch.no_grad():
            pruner.fasterprune(amount, **pattern)
        seconds = time.process_time() - start
        found = module.weight.data
    weights = found.numpy()
    return {"seconds": seconds, "error": error(weights, weight, gram)}, weights


class Grid:
    """A quantizer as the class of the checkout takes them: its grid runs from zero to `maxq`."""

    def __init__(self, scale: Any) -> None:
        self.scale, self.zero, self.maxq = scale, LEVELS // 2, LEVELS - 1

    def ready(self) -> bool:
        """That scales are there."""
        return True

    def quantize(self, values: Any) -> Any:
        """Values [r] on the grid."""
        step = self.scale[:, 0]
        return ((values / step).round() + self.zero).clamp(0, self.maxq).sub(self.zero) * step


def checkout(place: str) -> Any:
    """The class; what it imports and never uses here, transformers' `Conv1D`, need not be installed."""
    import contextlib
    import io

    import torch

    sys.path.insert(0, place)
    if "transformers" not in sys.modules:
        stub = types.ModuleType("transformers")
        stub.Conv1D = type("Conv1D", (), {})  # type: ignore[attr-defined]
        sys.modules["transformers"] = stub
    torch.cuda.synchronize = lambda device=None: None
    from sparsegpt import SparseGPT

    class Quiet(SparseGPT):  # type: ignore[misc, no-any-unimported]
        def fasterprune(self, *given: Any, **named: Any) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                super().fasterprune(*given, **named)

    return Quiet


def plain(weight: Any, gram: Any, kind: str, grid: Grid | None, block: int = 128) -> Any:
    """Frantar and Alistarh 2023, algorithm 1, in torch: three factorizations, columns one by one, blocks at the end."""
    import torch

    weight, size = weight.clone(), len(gram)
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    root = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, size, block):
        stop = min(start + block, size)
        now, own = weight[:, start:stop].clone(), root[start:stop, start:stop]
        scores = (now / own.diagonal()) ** 2
        keep = torch.ones_like(now, dtype=torch.bool)
        if kind == "half":
            keep = scores > scores.flatten().sort()[0][scores.numel() // 2 - 1]
        errors = torch.zeros_like(now)
        for column in range(stop - start):
            if kind == "2:4" and column % 4 == 0:
                group = (now[:, column : column + 4] / own.diagonal()[column : column + 4]) ** 2
                keep[:, column : column + 4].scatter_(1, group.topk(2, dim=1, largest=False)[1], False)
            value = now[:, column] * keep[:, column]
            if grid is not None:
                value = grid.quantize(value)
            errors[:, column] = (now[:, column] - value) / own[column, column]
            now[:, column:] -= errors[:, column, None] * own[column, column:]
            weight[:, start + column] = value
        weight[:, stop:] -= errors @ root[start:stop, stop:]
    return weight


def masks(size: int) -> Result:
    """Errors and seconds of what comes after the sweep at 2:4, relative errors only."""
    from secateur.calib.solvers import column_sweep as sweep
    from secateur.calib.solvers.admm_masks import admm_mask
    from secateur.calib.solvers.element_masks import keep_of
    from secateur.calib.solvers.mask_swaps import swap
    from secateur.calib.solvers.masked_least_squares import masked_least_squares

    weight, gram = layer(size)
    found: Result = {}

    def note(name: str, mask: Callable[[], Array]) -> None:
        start = time.process_time()
        chosen = mask()
        middle = time.process_time()
        values = masked_least_squares(gram, weight, chosen)
        found[name] = {
            "seconds": middle - start,
            "fit": time.process_time() - middle,
            "error": error(values, weight, gram),
        }

    made = sweep.factor(gram)
    damped = gram + made.ridge * np.eye(size)
    swept = sweep.column_sweep(weight, made, sweep.keep_of(2, 4)).mask
    note("sweep, fitted", lambda: sweep.column_sweep(weight, sweep.factor(gram), sweep.keep_of(2, 4)).mask)
    note("Wanda, fitted", lambda: keep_of(np.abs(weight) * np.sqrt(gram.diagonal()), 2, 4))
    note("sweep, swaps, fitted", lambda: swap(weight, damped, swept, 4).mask)
    note("ADMM, fitted", lambda: admm_mask(gram, weight, partial(keep_of, keep=2, group=4)))
    return found


def moments(size: int) -> Result:
    """Seconds of the Gram of `ROWS` rows, as the published class sums it and as ours, and how far off each is."""
    import torch

    from secateur.calib.gram import Gram

    torch.set_num_threads(1)
    batch = np.random.default_rng(0).normal(size=(2048, size)).astype(np.float32)
    total, gram = torch.zeros(size, size), Gram(size)
    seconds = {"published": 0.0, "ours": 0.0}
    for _ in range(ROWS // len(batch)):
        start = time.process_time()
        x = torch.from_numpy(batch).t()
        total += x.matmul(x.t())
        middle = time.process_time()
        gram.update(batch)
        seconds["published"] += middle - start
        seconds["ours"] += time.process_time() - middle
    exact = (ROWS // len(batch)) * (batch.T.astype(np.float64) @ batch.astype(np.float64))
    size_of = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    off = {"published": total.numpy(), "ours": gram.xx}
    return {name: {"seconds": seconds[name], "off": float(np.abs((off[name] - exact) / size_of).max())} for name in off}


def child(name: str, size: int, reference: str | None) -> Result:
    """One measurement."""
    if name == "masks":
        return masks(size)
    if name == "gram":
        return moments(size)
    kind, _, way = name.partition(" ")
    return (published(kind, size, reference) if way == "published" else ours(kind, way, size))[0]


def measure(name: str, size: int, reference: str | None) -> Result:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--sizes", str(size)]
    command += ["--reference", reference] if reference else []
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} at {size} failed:\n{done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(runs: list[Result]) -> Result:
    """Of each figure, at whatever depth."""
    return {
        key: medians([run[key] for run in runs])
        if isinstance(runs[0][key], dict)
        else statistics.median(run[key] for run in runs)
        for key in runs[0]
    }


def machine(reference: str | None) -> Result:
    """What it ran on, and against what."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    against = "the published class" if reference else "a plain implementation of the paper"
    found = {"cpu": cpu.partition(":")[2].strip(), "python": platform.python_version(), "threads": 1, **versions}
    return found | {"reference": against, "revision": revision(reference)}


def revision(reference: str | None) -> str:
    """The commit of the checkout, or of the file called COMMIT in it."""
    if reference is None:
        return ""
    if (Path(reference) / "COMMIT").is_file():
        return (Path(reference) / "COMMIT").read_text().strip()
    done = subprocess.run(["git", "-C", reference, "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if not done.returncode else "unknown"


def show(document: Result, console: Console) -> None:
    """Prints the medians."""
    found, against = document["medians"], document["machine"]["reference"]
    right = partial(Column, justify="right")
    table = Table("layer", *map(right, ("CPU s", "faster than it", "error", "of its error")))
    table.title = f"One thread, beside {against}"
    for size, kinds in found.items():
        for kind in KINDS:
            base = kinds[f"{kind} published"]
            for way in WAYS:
                one = kinds[f"{kind} {way}"]
                faster, less = base["seconds"] / one["seconds"], one["error"] / base["error"]
                cells = (f"{one['seconds']:.2f}", f"{faster:.2f}", f"{one['error']:.5f}", f"{less:.3f}")
                table.add_row(f"{size} {kind} {way}", *cells)
        for name, one in kinds.get("masks", {}).items():
            base = kinds["2:4 published"]
            cells = (f"{one['seconds'] + one['fit']:.2f}", "", f"{one['error']:.5f}")
            table.add_row(f"{size} 2:4 {name}", *cells, f"{one['error'] / base['error']:.3f}")
        for name, one in kinds.get("gram", {}).items():
            faster = kinds["gram"]["published"]["seconds"] / one["seconds"]
            table.add_row(f"{size} Gram {name}", f"{one['seconds']:.2f}", f"{faster:.2f}", f"{one['off']:.1e}", "")
    console.print(table)


def main() -> None:
    """Measures, writes the results and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", help="a checkout of github.com/IST-DASLab/sparsegpt")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one small size, once; nothing is written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.sizes[0], options.reference)))
        return
    console = Console()
    sizes, runs = ([256], 1) if options.quick else (options.sizes, options.runs)
    names = [f"{kind} {way}" for kind in KINDS for way in WAYS]
    document: Result = {"machine": machine(options.reference), "medians": {}, "runs": {}}
    for size in sizes:
        extra = (["masks"] if size == min(sizes) else []) + (["gram"] if size == max(sizes) else [])
        for name in names + extra:
            with console.status(f"{name}, {size} columns"):
                done = [measure(name, size, options.reference) for _ in range(runs)]
            document["runs"].setdefault(str(size), {})[name] = done
            document["medians"].setdefault(str(size), {})[name] = medians(done)
            if not options.quick:
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    show(document, console)


if __name__ == "__main__":
    main()
