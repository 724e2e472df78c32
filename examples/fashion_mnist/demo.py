"""The whole road on a trained network: dense, pruned without and with repair, 2:4, INT8, engines; one table, one plot.

    python examples/fashion_mnist/demo.py --output demo-output

Calibration images come from the training split; accuracy is that on all 10,000 test images. The steps after pruning
start from the repaired model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data import calibration, load
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import secateur as sc
from secateur.backends.latency import latency
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.inspection import macs_of

NETWORK = Path(__file__).with_name("resnet.onnx")
CALIBRATION_IMAGES = 512
BATCH = 64
CAPABILITIES = ("8.9", "12.0")


@dataclass(frozen=True)
class Step:
    """One row of the table: a name, what it starts from, and the passes that lead to it."""

    name: str
    start: str
    recipe: str


STEPS = (
    Step("pruned by magnitude, no repair", "dense", "prune{ratio=0.5, criterion=magnitude, repair=none}"),
    Step("pruned by OBS, no repair", "dense", "prune{ratio=0.5, repair=none}"),
    Step("pruned by OBS, least squares", "dense", "prune{ratio=0.5}"),
    Step("... and 2:4", "pruned by OBS, least squares", "sparsify{pattern=2:4}"),
    Step("... and INT8", "... and 2:4", "quantize{format=int8}"),
)


@dataclass
class Row:
    """What one model is worth."""

    name: str
    accuracy: float
    macs: int
    file_bytes: int
    milliseconds: float
    engine_bytes: int | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every step, writes models, engines, table.json and accuracy.png into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    folder: Path = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    console, started = Console(width=None if sys.stdout.isatty() else 110), time.perf_counter()
    images, labels = load("test")
    calibration_data = {"image": calibration(CALIBRATION_IMAGES, seed=0)}

    dense = sc.load(NETWORK)
    models = {"dense": dense}
    rows = [measure("dense", dense, dense, folder, (images, labels))]
    for step in STEPS:
        console.print(f"[bold]{step.name}[/]  {step.recipe}")
        result = sc.compress(models[step.start], step.recipe, data=calibration_data, batch_size=BATCH)
        models[step.name] = result.graph
        stem = f"{len(rows)}"
        result.manifest.save(folder / f"{stem}.manifest.json")
        (folder / f"{stem}.report.txt").write_text(str(result.report))
        rows.append(measure(step.name, result.graph, dense, folder, (images, labels), stem))
    build_engines(rows, folder, console)
    console.print(table_of(rows))
    (folder / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    plot(rows, folder / "accuracy.png")
    console.print(f"{time.perf_counter() - started:.0f} s; models, engines, reports and the plot are in {folder}/")


def measure(
    name: str,
    graph: sc.Graph,
    dense: sc.Graph,
    folder: Path,
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    stem: str = "0",
) -> Row:
    """Saves a model, scores it on the test split, and times it beside the dense one."""
    path = folder / f"{stem}.onnx"
    graph.save(path)
    images, labels = test
    with OnnxRuntimeRunner(graph) as runner:
        found = [
            runner.run({"image": images[start : start + 500]})["logits"].argmax(1)
            for start in range(0, len(images), 500)
        ]
    timed = latency(dense, graph, {"image": images[:BATCH]}, repeats=15)
    accuracy = float(np.mean(np.concatenate(found) == labels))
    return Row(name, accuracy, macs_of(graph), path.stat().st_size, 1000 * timed.median_b)


def build_engines(rows: Sequence[Row], folder: Path, console: Console) -> None:
    """Builds a TensorRT-RTX engine from every model, where TensorRT-RTX is installed."""
    shapes = {"image": [(1, 1, 28, 28), (BATCH, 1, 28, 28), (256, 1, 28, 28)]}
    for index, row in enumerate(rows):
        engine = folder / f"{index}.engine"
        try:
            sc.build(folder / f"{index}.onnx", engine, compute_capability=CAPABILITIES, shapes=shapes)
        except sc.SecateurError as error:
            console.print(f"no engine from {index}.onnx: {error}")
            return
        row.engine_bytes = engine.stat().st_size


def table_of(rows: Sequence[Row]) -> Table:
    """The table that the demo ends with."""
    table = Table(title="ResNet on Fashion-MNIST, 10,000 test images; each line a model on disk")
    table.add_column("model")
    for column in ("accuracy %", "MACs M", "file MB", f"onnxruntime ms / {BATCH} images", "engine MB"):
        table.add_column(column, justify="right")
    for row in rows:
        engine = "-" if row.engine_bytes is None else f"{row.engine_bytes / 1e6:.2f}"
        table.add_row(
            row.name,
            f"{100 * row.accuracy:.2f}",
            f"{row.macs / 1e6:.1f}",
            f"{row.file_bytes / 1e6:.2f}",
            f"{row.milliseconds:.1f}",
            engine,
        )
    return table


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy of each model as a bar, its size beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis: Any = figure.subplots()
    bars = axis.barh([row.name for row in rows], [100 * row.accuracy for row in rows], color="#4c72b0")
    labels = [f"{100 * row.accuracy:.1f} %,  {row.file_bytes / 1e6:.2f} MB" for row in rows]
    axis.bar_label(bars, labels, padding=4)
    axis.axvline(100 * rows[0].accuracy, color="grey", linewidth=0.8, linestyle="--")
    axis.invert_yaxis()
    axis.set_xlim(0, 125)
    axis.set_xlabel("accuracy on 10,000 test images, %")
    axis.set_title("What each step costs, and what repair gives back")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
