"""2:4 with weight update over a Llama of 100 million parameters: seconds and memory, beside llm-compressor.

    python benchmarks/sparse_llama.py [--runs 3] [--tools secateur ...] [--peers DIR]

Twelve layers, 84 matrices, random weights; 8 windows of 512 random tokens. All tools do what SparseGPT does; ours does
so towards what the dense model gave, too, and its default: another mask, exact least squares, varied data. A process
imports its tool, reads the model, calibrates, and writes the sparse one; the tools take turns. All run on one processor
core, and the seconds that count are those that it worked. Medians go to the screen and to `results/sparse_llama.json`.
The peer lives in a virtual environment of its own, made in DIR at the first run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pruning import HERE, Result
from quality import table, whole
from quality.task import ROOT
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(ROOT / "tests"))

BOOK = HERE / "results" / "sparse_llama.json"
PEER = "llm-compressor"
OURS: Mapping[str, str] = {
    "secateur, SparseGPT": "sparsify{patterns=[HEAD:dense], criterion=sparsegpt, repair=sweep, targets=own}",
    "secateur, dense targets": "sparsify{patterns=[HEAD:dense], criterion=sparsegpt, repair=sweep}",
    "secateur, default": "sparsify{patterns=[HEAD:dense]}",
}
"""What each row of ours runs. HEAD is what makes logits, which all leave dense."""
SAMPLES, LENGTH = 8, 512
PACKAGES = ("llmcompressor==0.14.0.1", "torch", "transformers")


def written(scratch: Path) -> tuple[Path, Path, Path]:
    """The model as ONNX and as a folder of `transformers`, and the tokens."""
    from helpers.zoo import Form, Model

    entry = Model("llama-full-dynamic", "full", "llama", Form(dynamic=True))
    folder, tokens = scratch / "llama", scratch / "tokens.npz"
    entry.recipe().module.save_pretrained(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ids = np.random.default_rng(0).integers(0, vocabulary, (SAMPLES, LENGTH))
    np.savez(tokens, input_ids=ids, attention_mask=np.ones_like(ids))
    return entry.path(), folder, tokens


def job(passes: str, model: str, tokens: str, output: str) -> None:
    """Ours, sample by sample."""
    import secateur as sc
    from secateur.sparsity import sparsity_report

    head = max(sparsity_report(model).weights, key=lambda weight: max(weight.shape))
    result = sc.compress(sc.load(model), passes.replace("HEAD", head.name), data=tokens, batch_size=1)
    result.graph.save(output)


def run(options: argparse.Namespace, results: Result, console: Console) -> None:
    """Tool -> runs."""
    python = None
    if PEER in options.tools:
        python, results["peers"] = table.environment(Path(f"{options.peers}-llmcompressor"), PACKAGES, console)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model, folder, tokens = written(scratch)
        found: dict[str, list[Result]] = results.setdefault("tools", {})
        found.update({tool: [] for tool in options.tools})
        for _ in range(options.runs):
            for tool in options.tools:
                if tool in OURS:
                    output = scratch / "sparse.onnx"
                    words = [sys.executable, __file__, "--job", OURS[tool], str(model), str(tokens), str(output)]
                elif python is not None:
                    output = scratch / "sparse" / "model.safetensors"
                    script = str(HERE / "sparse_llama_peer.py")
                    words = [python, script, str(folder), str(tokens), str(output.parent)]
                else:
                    continue
                once = whole.timed(words, output)
                console.print(tool, json.dumps(once), markup=False, highlight=False)
                found[tool].append(once)
                BOOK.write_text(json.dumps(results, indent=1) + "\n")


def show(results: Result, console: Console) -> None:
    """One row for each tool."""
    shown = Table(*whole.HEADINGS)
    for cells in whole.rows(results.get("tools", {}), OURS):
        shown.add_row(*cells)
    console.print(shown)


def main() -> None:
    """The command line."""
    options = whole.arguments(__doc__, (*OURS, PEER), job=4).parse_args()
    if options.job:
        job(*options.job)
        return
    whole.fill(BOOK, options, run, show)


if __name__ == "__main__":
    main()
