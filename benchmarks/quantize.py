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
import sys
import tempfile
from pathlib import Path

import numpy as np
from pruning import HERE, Result, ask_zoo
from quality import quantized, table, whole
from quality.task import Feeds
from rich.console import Console
from rich.table import Table

BOOK = HERE / "results" / "quantize.json"
OURS = "secateur"
TOOLS = (OURS, "onnxruntime", "onnxruntime, for TensorRT", "NNCF", "modelopt")
MODELS = {"resnet50": "32 images", "bert": "16 x 128 tokens"}


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
                    once = whole.timed(command(tool, python, name, (model, data, str(output))), output)
                    console.print(name, tool, json.dumps(once), markup=False, highlight=False)
                    found[tool].append(once)
                    results.setdefault("models", {}).setdefault(name, {}).update(found)
                    BOOK.write_text(json.dumps(results, indent=1) + "\n")


def show(results: Result, console: Console) -> None:
    """One row for each model and tool."""
    shown = Table("model", *whole.HEADINGS)
    for name, tools in results.get("models", {}).items():
        for cells in whole.rows(tools, [OURS]):
            shown.add_row(f"{name}, {MODELS[name]}", *cells)
        shown.add_section()
    console.print(shown)


def main() -> None:
    """The command line."""
    parser = whole.arguments(__doc__, TOOLS, job=3)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    options = parser.parse_args()
    if options.job:
        job(*options.job)
        return
    whole.fill(BOOK, options, run, show)


if __name__ == "__main__":
    main()
