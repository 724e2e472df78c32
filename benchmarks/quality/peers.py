"""Prunes one model with another tool; runs in an environment of its own (`quality_structured.py` makes it).

    python peers.py "onnxsim l2|onnxsim wanda|torch-pruning l2" TASK MODEL.onnx AMOUNT DATA.npz OUTPUT.onnx

AMOUNT are the options of our `prune`: `ratio=0.25, dims=ffn` is the same share of the same kind of groups;
`budget=macs:0.5` is met by searching the tool's own ratio. Prints one line of JSON behind `RESULT`. No part of this
project is imported.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

STEPS = 9
"""Halvings of the interval in which a ratio is searched."""


class Unable(Exception):
    """The tool does not do this; the text says why."""


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of Conv, Gemm and of MatMul by weights, for one sample; symbolic sizes count as one."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("value_info")  # it may be from before the pruning
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    weights = {one.name: list(one.dims) for one in inferred.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        places = math.prod(shapes[node.output[0]][2:]) if node.op_type == "Conv" else 1
        total += math.prod(weight) * places
    return total


def searched(prune: Callable[[float], tuple[Any, float]], share: float) -> tuple[Any, float]:
    """(the model, its ratio) of the smallest ratio that leaves at most `share` of the multiply-accumulates."""
    low, high, best = 0.0, 0.98, None
    for _ in range(STEPS):
        middle = (low + high) / 2
        model, left = prune(middle)
        if left <= share:
            high, best = middle, (model, middle)
        else:
            low = middle
    if best is None:
        raise Unable(f"does not get below {left:.0%} of the multiply-accumulates")
    return best


def read_data(path: str) -> list[dict[str, np.ndarray]]:
    """Batches of feeds from arrays named `NUMBER/INPUT`."""
    batches: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            number, _, key = name.partition("/")
            batches.setdefault(int(number), {})[key] = arrays[name]
    return [batches[number] for number in sorted(batches)]


def onnxsim(kind: str, path: str, amount: str, data: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Its structured pruning of channels and neurons, and for heads that of heads."""
    import onnxsim as simplifier

    dense = onnx.load(path)
    heads, before = "heads" in amount, macs(dense)
    if "units=" in amount or "dims=experts" in amount:
        raise Unable("needs two tools at once" if "units=" in amount else "prunes experts of fused MoE operators only")

    def prune(ratio: float, calibrated: bool) -> tuple[onnx.ModelProto, float]:
        given: dict[str, Any] = {"sparsity": ratio}
        if calibrated:
            given["calibration_data"] = read_data(data)
            tool = simplifier.apply_attention_head_wanda_pruning if heads else simplifier.apply_structured_wanda_pruning
        else:
            tool = simplifier.apply_attention_head_pruning if heads else simplifier.apply_structured_pruning
        model = tool(onnx.load(path), **given)
        return model, macs(model) / before

    share = re.search(r"budget=macs:([\d.]+)", amount)
    if share:
        _, ratio = searched(lambda ratio: prune(ratio, False), float(share[1]))
    else:
        ratio = float(re.search(r"ratio=([\d.]+)", amount)[1])  # type: ignore[index]
    start = time.perf_counter()
    model, left = prune(ratio, kind == "wanda")
    seconds = time.perf_counter() - start
    if share and left > float(share[1]):  # calibrated, it goes through fewer ops
        model, ratio = searched(lambda ratio: prune(ratio, True), float(share[1]))
    if left > 1 - 1e-9:
        raise Unable("changes nothing, and says nothing")
    return model, {"seconds": seconds, "ratio": ratio}


def torch_pruning(task: str, path: str, amount: str, output: str) -> dict[str, Any]:
    """`BasePruner` by magnitude; the last layer, which makes the output, is left out."""
    import torch
    import torch_pruning as pruning

    torch.set_num_threads(1)
    if task not in ("resnet", "vgg") or "budget" not in amount:
        raise Unable("is given no torch module of this model")
    example = torch.zeros(2, 1, 28, 28)
    share = float(re.search(r"budget=macs:([\d.]+)", amount)[1])  # type: ignore[index]
    before, _ = pruning.utils.count_ops_and_params(twin(task, path), example[:1])

    def prune(ratio: float) -> tuple[torch.nn.Module, float]:
        module = twin(task, path)
        head = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)][-1]
        importance = pruning.importance.MagnitudeImportance(p=2)
        pruner = pruning.pruner.BasePruner(
            module, example, importance=importance, pruning_ratio=ratio, ignored_layers=[head]
        )
        pruner.step()
        left, _ = pruning.utils.count_ops_and_params(module, example[:1])
        return module, left / before

    start = time.perf_counter()
    module, ratio = searched(prune, share)
    seconds = time.perf_counter() - start
    batch = {"image": {0: torch.export.Dim("batch")}}
    torch.onnx.export(
        module, (example,), output, dynamo=True, dynamic_shapes=(batch["image"],), input_names=["image"],
        output_names=["logits"], external_data=False, verbose=False,
    )  # fmt: skip
    return {"seconds": seconds / STEPS, "ratio": ratio}


def twin(task: str, path: str) -> Any:
    """The torch module with the weights of the ONNX file, in which every norm is folded into the convolution before."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x: Any) -> Any:
            return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 32, 3, 1, 1)
            sizes = [(32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
            self.blocks = nn.Sequential(*(Block(*one) for one in sizes))
            self.head = nn.Linear(128, 10)

        def forward(self, image: Any) -> Any:
            return self.head(self.blocks(self.stem(image).relu()).mean((2, 3)))

    class Vgg(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
                layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1)]
                layers += [nn.ReLU(), nn.MaxPool2d(2)]
            self.features = nn.Sequential(*layers)
            self.classifier = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

        def forward(self, image: Any) -> Any:
            return self.classifier(self.features(image).flatten(1))

    module = ResNet() if task == "resnet" else Vgg()
    model = onnx.load(path)
    arrays = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(nodes) == len(layers)
    for node, layer in zip(nodes, layers, strict=True):
        assert layer.weight.shape == arrays[node.input[1]].shape, (node.name, layer)
        layer.weight.data, layer.bias.data = arrays[node.input[1]], arrays[node.input[2]]
    return module.eval()


def main() -> None:
    """The command line."""
    method, task, path, amount, data, output = sys.argv[1:7]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tool, _, kind = method.partition(" ")
    try:
        if tool == "torch-pruning":
            found = torch_pruning(task, path, amount, output)
        else:
            model, found = onnxsim(kind, path, amount, data)
            onnx.save(model, output)
    except Unable as reason:
        found = {"failure": f"{tool} {reason}"}
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
