"""What other pruners take for one model; runs in an environment of their own (`pruning.py` makes it).

    python pruning_peers.py torch-pruning|onnxsim MODEL RUNS

Prints one line of JSON: seconds of each step for each run, the share of the parameters that is kept, and what became
of the model: whether it still runs, or how it failed. No part of this project is imported but the builders of the
zoo's torch modules.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

BUILDERS = {
    "resnet50": "zoo_transformers",
    "densenet121": "zoo_convnets",
    "vgg16": "zoo_convnets",
    "vit": "zoo_transformers",
    "bert": "zoo_transformers",
    "llama": "zoo_transformers",
}
"""Which of the tests' helpers builds a model, by a function of the same name."""


def reason(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"


def torch_pruning(name: str, runs: int) -> dict[str, Any]:
    """`BasePruner` by magnitude at 50 %, all default; the last linear layer, which makes the output, is left out."""
    import importlib

    import torch
    import torch_pruning as pruning

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    recipe = getattr(importlib.import_module(f"helpers.{BUILDERS[name]}"), name)(small=False)
    example, extra = dict(recipe.inputs), dict(recipe.options)

    def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        found = model(**inputs, **extra)
        return found if isinstance(found, torch.Tensor) else found[0]

    results: list[dict[str, float]] = []
    shares: dict[str, Any] = {}
    for _ in range(runs):
        model = copy.deepcopy(recipe.module).eval()
        before = sum(weight.numel() for weight in model.parameters())
        head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
        seconds: dict[str, float] = {}
        try:
            start = time.process_time()
            pruning.DependencyGraph().build_dependency(model, example_inputs=example, forward_fn=forward)
            seconds["graph"] = time.process_time() - start
            model.zero_grad()
            start = time.process_time()
            pruner = pruning.pruner.BasePruner(
                model,
                example,
                importance=pruning.importance.MagnitudeImportance(p=2),
                pruning_ratio=0.5,
                ignored_layers=[head],
                forward_fn=forward,
            )
            seconds["init"] = time.process_time() - start
            start = time.process_time()
            pruner.step()
            seconds["step"] = time.process_time() - start
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
            shares = {"failure": f"pruning: {reason(error)}"}
            results.append(seconds)
            break
        results.append(seconds)
        after = sum(weight.numel() for weight in model.parameters())
        shares = {"kept": after / before, "failure": None}
        try:
            with torch.no_grad():
                forward(model, example)
        except Exception as error:  # noqa: BLE001
            shares["failure"] = f"the pruned model does not run: {reason(error)}"
    return {"runs": results, **shares}


def onnxsim(path: str, runs: int) -> dict[str, Any]:
    """`apply_structured_pruning` at 50 %, all default, on a model that is loaded already."""
    import onnx
    import onnxruntime
    import onnxsim as simplifier

    results: list[dict[str, float]] = []
    shares: dict[str, Any] = {}
    for run in range(runs):
        model = onnx.load(path)
        before = elements(model)
        start = time.process_time()
        try:
            pruned = simplifier.apply_structured_pruning(model, 0.5)
        except Exception as error:  # noqa: BLE001
            shares = {"failure": f"pruning: {reason(error)}"}
            break
        results.append({"prune": time.process_time() - start})
        if run == runs - 1:
            shares = {"kept": elements(pruned) / before, "failure": None}
            try:
                onnxruntime.InferenceSession(pruned.SerializeToString(), providers=["CPUExecutionProvider"])
            except Exception as error:  # noqa: BLE001
                shares["failure"] = f"onnxruntime does not load the pruned model: {reason(error)}"
    return {"runs": results, **shares}


def elements(model: Any) -> int:
    """Floating-point numbers in the initializers that something reads."""
    import math

    used = {name for node in model.graph.node for name in node.input}
    floats = {1, 10, 11, 16}
    tensors = [one for one in model.graph.initializer if one.name in used and one.data_type in floats]
    return sum(math.prod(one.dims) for one in tensors)


def main() -> None:
    """The command line."""
    tool, model, runs = sys.argv[1:4]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = torch_pruning(model, int(runs)) if tool == "torch-pruning" else onnxsim(model, int(runs))
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
