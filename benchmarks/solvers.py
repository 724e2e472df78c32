"""What choosing units costs: exact OBS beside the inversion that it needs, the LASSO beside scikit-learn's.

    python benchmarks/solvers.py [--runs 3] [--parts obs lasso]

- obs: half of 4096 columns, one at a time, each time the one that costs least then, all that are left compensating.
  Beside it what no exact method does without: the Cholesky factor of the Gram matrix and the triangular solves for its
  inverse. LAPACK's `dpotri` makes the inverse in fewer operations than solves for every column; both are given.
- lasso: half of the channels of a 3x3 convolution. In full size (512 channels, 512 outputs, 50,000 positions) from the
  Gram matrix; and in a size that scikit-learn can hold (256 channels, 64 outputs, 5,000 positions), beside the search
  that He et al. 2017 do with its `Lasso` on explicit contributions of all positions, and beside its `lasso_path` once
  the Gram matrix of these is there; called with all rows, and with as many as there are channels, of the same Gram
  matrix, which it is not made for, but which shows what its descent alone takes (for 100 penalties, to 1e-4).

One thread, each measurement in a process of its own, one after another; seconds are those of the processor, so that
what else the machine does hardly matters. Medians go to the screen and, with every run,
to `results/solvers.json`; `--parts` replaces those parts there and leaves the others. scikit-learn comes with the extra
`dev`; nothing but this benchmark and one test needs it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Column, Table

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Result = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "solvers.json"
PACKAGES = ("secateur", "numpy", "scipy", "scikit-learn")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PARTS = {"obs": ("obs 1024", "obs 4096"), "lasso": ("lasso large", "lasso small", "scikit-learn")}
WIDTH = 4096
TAPS = 9
LARGE = (512, 512, 50_000)
SMALL = (256, 64, 5_000)
"""Channels, outputs, positions."""


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work makes, and the seconds that it takes of the processor."""
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def obs(outputs: int) -> Result:
    """Seconds of each step for a layer [outputs, 4096]."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.linalg.lapack import dpotrf, dpotri

    from secateur.calib.solvers.obs import compensated, damped_inverse
    from secateur.calib.solvers.obs_greedy import Surgeon, remove_greedily

    random = np.random.default_rng(0)
    rows = random.normal(size=(WIDTH + 1000, WIDTH)).astype(np.float32)
    xx = (rows.T @ rows).astype(np.float64)
    weight = random.normal(size=(outputs, WIDTH))
    factor, cholesky = timed(lambda: cho_factor(xx, lower=True))
    _, solves = timed(lambda: cho_solve(factor, np.eye(WIDTH)))
    _, lapack = timed(lambda: dpotri(dpotrf(xx, lower=1)[0], lower=1))
    inverse, inverting = timed(lambda: damped_inverse(xx))
    units = list(np.arange(WIDTH)[:, None])
    (order, _), choosing = timed(lambda: remove_greedily([Surgeon(weight, inverse, units)], WIDTH // 2))
    _, updating = timed(lambda: compensated(weight, inverse, order))
    ours = inverting + choosing + updating
    return {
        "cholesky and solves": cholesky + solves,
        "dpotrf and dpotri": lapack,
        "inverse": inverting,
        "order": choosing,
        "weights": updating,
        "ours": ours,
        "ours / solves": ours / (cholesky + solves),
        "ours / lapack": ours / lapack,
    }


def rows_of(channels: int, positions: int) -> Iterator[Array]:
    """Patches [n, channels * 9] float32 of correlated, rectified channels, some 2,000 at a time."""
    random = np.random.default_rng(1)
    mixing = random.normal(size=(32, channels * TAPS)).astype(np.float32)
    for start in range(0, positions, 2000):
        count = min(2000, positions - start)
        hidden = random.normal(size=(count, 32)).astype(np.float32) @ mixing / 6
        yield np.maximum(hidden + random.normal(size=hidden.shape).astype(np.float32), 0)


def weight_of(channels: int, outputs: int) -> Array:
    """Weights [outputs, channels, 9] of channels that matter more and less."""
    random = np.random.default_rng(2)
    scale = random.lognormal(size=(1, channels, 1))
    return (random.normal(size=(outputs, channels, TAPS)) * scale).astype(np.float32)


def lasso(channels: int, outputs: int, positions: int) -> Result:
    """Seconds from rows to the channels, and what of them the search itself takes."""
    from secateur.calib.gram import Gram
    from secateur.calib.solvers.lasso import lasso, lasso_channels, lasso_terms

    weight = weight_of(channels, outputs)
    gram, gathering = Gram(channels * TAPS, outputs), 0.0
    for rows in rows_of(channels, positions):
        targets = rows @ weight.reshape(outputs, -1).T
        gathering += timed(lambda rows=rows, targets=targets: gram.update(rows, targets))[1]
    moments = gram.centered()
    terms, combining = timed(lambda: lasso_terms(moments.xx, moments.xy, moments.yy, moments.count, weight))
    selection, selecting = timed(lambda: lasso_channels(terms, channels // 2))
    _, following = timed(lambda: lasso(terms, 1e-3 * terms.alpha_max))
    return {
        "gram": gathering,
        "terms": combining,
        "selection": selecting,
        "path": following,
        "all": gathering + combining + selecting,
        "alpha": selection.alpha,
        "kept": selection.kept.tolist(),
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def contributions(channels: int, outputs: int, positions: int) -> tuple[Array, Array]:
    """Z [positions * outputs, channels], what each channel adds to the outputs, and their sum; both centred."""
    weight = weight_of(channels, outputs)
    rows = np.concatenate(list(rows_of(channels, positions))).reshape(positions, channels, TAPS)
    z = np.empty((positions * outputs, channels), order="F")
    for channel in range(channels):
        added = rows[:, channel] @ weight[:, channel].T.astype(np.float64)
        z[:, channel] = (added - added.mean(axis=0)).ravel()
    return z, z.sum(axis=1)


def search(z: Array, y: Array, keep: int) -> tuple[int, int]:
    """He et al. 2017 as published: double the penalty until few enough stay, then halve; to within a tenth."""
    from sklearn.linear_model import Lasso

    model = Lasso(fit_intercept=False, copy_X=False, warm_start=True, selection="random", random_state=0)
    fits = 0

    def count(alpha: float) -> int:
        nonlocal fits
        fits += 1
        model.set_params(alpha=alpha).fit(z, y)
        return int(np.count_nonzero(model.coef_))

    low, high = 0.0, 1e-3
    while count(high) >= keep:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        found = count(middle)
        if keep <= found <= 1.1 * keep:
            return found, fits
        low, high = (middle, high) if found > keep else (low, middle)
    return found, fits


def scikit_learn(alpha: float) -> Result:
    """Seconds of scikit-learn's ways, and the channels that it keeps at the penalty that ours stopped at."""
    from sklearn.linear_model import Lasso, lasso_path

    channels = SMALL[0]
    (z, y), explicit = timed(lambda: contributions(*SMALL))
    (found, fits), searching = timed(lambda: search(z, y, channels // 2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    (gram, correlation), multiplying = timed(lambda: (z.T @ z, z.T @ y))
    _, path = timed(lambda: lasso_path(z, y, precompute=gram, Xy=correlation, copy_X=False))
    # The same problem in 256 rows, so that it need not look at the others.
    root = np.linalg.cholesky(gram).T
    scale = channels / len(y)
    small, target = np.asfortranarray(root * np.sqrt(scale)), np.linalg.solve(root.T, correlation) * np.sqrt(scale)
    products, linear = gram * scale, correlation * scale
    _, short = timed(lambda: lasso_path(small, target, precompute=products, Xy=linear, copy_X=False))
    fitted = Lasso(alpha, fit_intercept=False, precompute=products, tol=1e-10, max_iter=100_000).fit(small, target)
    return {
        "contributions": explicit,
        "search": searching,
        "fits": fits,
        "found": found,
        "gram": multiplying,
        "lasso_path": path,
        "lasso_path of 256 rows": short,
        "kept": np.flatnonzero(fitted.coef_).tolist(),
        "peak GB": peak,
    }


def child(name: str, alpha: float) -> Result:
    """One measurement, in this process."""
    kind, _, size = name.partition(" ")
    if kind == "obs":
        return obs(int(size))
    return lasso(*(LARGE if size == "large" else SMALL)) if kind == "lasso" else scikit_learn(alpha)


def measure(name: str, alpha: float = 0.0) -> Result:
    """What a process of its own finds."""
    command = [sys.executable, __file__, "--child", name, "--alpha", repr(alpha)]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def medians(runs: list[Result]) -> Result:
    """The median of every number, the lists of the first run."""
    first = runs[0]
    numbers = {name for name, value in first.items() if not isinstance(value, list)}
    return {name: statistics.median(run[name] for run in runs) if name in numbers else first[name] for name in first}


def machine() -> Result:
    """What it ran on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"cpu": cpu.partition(":")[2].strip(), "python": platform.python_version(), "threads": 1, **versions}


def show(found: dict[str, Result], console: Console) -> None:
    """Prints the medians."""
    table = Table(
        "what",
        Column("CPU seconds", justify="right"),
        Column("compared with", justify="right"),
        Column("goal", justify="right"),
        title="Choosing half of the units, one thread",
    )
    for outputs in (1024, 4096):
        if one := found.get(f"obs {outputs}"):
            table.add_section()
            table.add_row(
                f"Cholesky and triangular solves, {WIDTH} columns", f"{one['cholesky and solves']:.2f}", "1", ""
            )
            table.add_row("  the same by dpotrf and dpotri", f"{one['dpotrf and dpotri']:.2f}", "", "")
            steps = ", ".join(f"{step} {one[step]:.2f}" for step in ("inverse", "order", "weights"))
            ratios = f"{one['ours / solves']:.2f} x; {one['ours / lapack']:.2f} x dpotri"
            table.add_row(f"exact OBS, {outputs} outputs ({steps})", f"{one['ours']:.2f}", ratios, "<= 3 x")
    if large := found.get("lasso large"):
        table.add_section()
        steps = ", ".join(f"{step} {large[step]:.2f}" for step in ("gram", "terms", "selection"))
        size = "{} channels, {} outputs, {:,} positions".format(*LARGE)
        table.add_row(f"LASSO, {size} ({steps})", f"{large['all']:.2f}", f"peak {large['peak GB']:.1f} GB", "")
    if (small := found.get("lasso small")) and (other := found.get("scikit-learn")):
        table.add_section()
        size = "{} channels, {} outputs, {:,} positions".format(*SMALL)
        table.add_row(f"scikit-learn, {size}", "", f"peak {other['peak GB']:.1f} GB", "")
        table.add_row("  explicit contributions", f"{other['contributions']:.2f}", "", "")
        table.add_row(f"  search with Lasso ({other['fits']:.0f} fits)", f"{other['search']:.2f}", "", "")
        table.add_row("  lasso_path, Gram given", f"{other['lasso_path']:.4f}", "", "")
        table.add_row("  the same, all in 256 rows", f"{other['lasso_path of 256 rows']:.4f}", "", "")
        steps = ", ".join(f"{step} {small[step]:.3f}" for step in ("gram", "terms"))
        table.add_row(f"LASSO, the same ({steps})", "", f"peak {small['peak GB']:.1f} GB", "")
        selection = small["selection"]
        table.add_row("  selection", f"{selection:.4f}", f"{other['search'] / selection:,.0f} x the search", ">= 100 x")
        table.add_row("", "", f"{other['lasso_path'] / selection:.1f} x lasso_path", ">= 5 x")
        table.add_row("", "", f"{other['lasso_path of 256 rows'] / selection:.1f} x that of 256 rows", "")
        whole, theirs = small["all"], other["contributions"] + other["search"]
        table.add_row("  from rows to channels", f"{whole:.2f}", f"{theirs / whole:.0f} x theirs", "")
        same = "the same" if small["kept"] == other["kept"] else "different"
        table.add_row("  channels at the same penalty", "", same, "the same")
    console.print(table)


def main() -> None:
    """Measures, writes the results and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--alpha", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.alpha)))
        return
    console = Console()
    document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"medians": {}, "runs": {}}
    document["machine"] = machine()
    for part in options.parts:
        for name in PARTS[part]:
            alpha = document["medians"]["lasso small"]["alpha"] if name == "scikit-learn" else 0.0
            runs = []
            for run in range(options.runs):
                with console.status(f"{name}, run {run + 1} of {options.runs}"):
                    runs.append(measure(name, alpha))
            document["runs"][name], document["medians"][name] = runs, medians(runs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    show(document["medians"], console)


if __name__ == "__main__":
    main()
