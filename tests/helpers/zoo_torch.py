"""How a PyTorch module of the zoo becomes an ONNX file: random weights that matter, both exporters, and a check.

Imports torch, so `helpers.zoo` loads it only when something is to be exported.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.onnxruntime_runs import session

TOLERANCE = 1e-4
"""How far onnxruntime may be from torch, relative to the largest number of an output."""


@dataclass(frozen=True)
class Recipe:
    """A module and how it is called.

    Attributes:
        module: called with `inputs` and `options` by name.
        inputs: example tensors; those of the ONNX model, in this order.
        outputs: names for what the module returns first, second, …; the rest is dropped.
        options: further arguments of the call, constant.
        symbols: names of axes that may change: `{"input_ids": {0: "batch", 1: "sequence"}}`.
        gains: factors for the random weights of layers whose name ends so.
        trained: the weights are real, and stay as they are.
    """

    module: torch.nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...] = ("output",)
    options: Mapping[str, Any] = field(default_factory=dict)
    symbols: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    trained: bool = False


class _Flat(torch.nn.Module):
    """The module with tensors in, a tuple of tensors out."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.names, self.options = recipe.module, list(recipe.inputs), dict(recipe.options)
        self.count = len(recipe.outputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)
        return (found,) if isinstance(found, torch.Tensor) else tuple(found)[: self.count]


def export(
    recipe: Recipe, path: Path, report: Path, *, opset: int | None = None, dynamic: bool = False, fused: bool = False
) -> None:
    """Writes the module to `path`, and to `report` what the export took and how near onnxruntime comes to torch.

    Args:
        recipe: its weights are drawn anew unless they are trained.
        path, report: an ONNX file and a JSON file.
        opset: below 18 the older exporter (tracing) is used, otherwise the one on `torch.export`.
        dynamic: the axes that the recipe names are symbolic.
        fused: onnxruntime's transformer fusions are applied; attention is written out for them to find.

    Raises:
        AssertionError: onnxruntime computes something else than torch.
    """
    if not recipe.trained:
        randomize(recipe.module, recipe.gains)
    if fused:
        recipe.module.set_attn_implementation("eager")
    flat = _Flat(recipe).eval()
    inputs = tuple(recipe.inputs.values())
    symbols = recipe.symbols if dynamic else {}
    with _quiet(), torch.no_grad():
        expected = [tensor.numpy() for tensor in flat(*inputs)]
        start = time.perf_counter()
        if opset is not None and opset < 18:
            _trace(flat, recipe, symbols, path, opset)
        else:
            _export(flat, recipe, symbols, path, opset)
        if fused:
            _fuse(recipe.module.config, path)
        seconds = time.perf_counter() - start
    feeds = {name: tensor.numpy() for name, tensor in recipe.inputs.items()}
    found = session(path, optimise=True).run(None, feeds)
    worst = max(distance(*pair) for pair in zip(found, expected, strict=True))
    assert worst <= TOLERANCE, f"{path.name}: onnxruntime is {worst:.1e} away from torch"
    text = json.dumps({"seconds": round(seconds, 2), "distance": worst})
    report.write_text(text, encoding="utf-8")


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected number."""
    assert found.shape == expected.shape and np.isfinite(expected).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


Symbols = Mapping[str, Mapping[int, str]]


def _export(flat: _Flat, recipe: Recipe, symbols: Symbols, path: Path, opset: int | None) -> None:
    axes = tuple(dict(symbols.get(name, {})) or None for name in recipe.inputs)
    program = torch.onnx.export(
        flat,
        tuple(recipe.inputs.values()),
        dynamic_shapes=(axes,) if symbols else None,
        input_names=list(recipe.inputs),
        output_names=list(recipe.outputs),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    program.save(path)


def _trace(flat: _Flat, recipe: Recipe, symbols: Symbols, path: Path, opset: int) -> None:
    torch.onnx.export(
        flat,
        tuple(recipe.inputs.values()),
        path,
        input_names=list(recipe.inputs),
        output_names=list(recipe.outputs),
        dynamic_axes={name: dict(axes) for name, axes in symbols.items()},
        opset_version=opset,
        dynamo=False,
    )


def _fuse(config: Any, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.optimizer import optimize_model

    # Without a head count GPT-2's fusions do not start; the ones for BERT know everything that decoders have.
    kind = config.model_type if config.model_type in ("bert", "gpt2") else "gpt2"
    heads = config.num_attention_heads
    width = heads * getattr(config, "head_dim", config.hidden_size // heads)
    fused = optimize_model(str(path), kind, num_heads=heads, hidden_size=width, opt_level=0)
    fused.model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(fused.model, path)


def randomize(module: torch.nn.Module, gains: Mapping[str, float], seed: int = 0) -> None:
    """Draws all parameters and running statistics anew, so that each of them shows in the output.

    As models initialise themselves, biases are zero, norms do nothing, attention is nearly uniform and the branches of
    some (ConvNeXt's layer scale is 1e-6) are nearly dead: then a wrong cut would hide below any tolerance.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with torch.no_grad():
        for path, layer in module.named_modules():
            gain = next((factor for end, factor in gains.items() if path.endswith(end)), 1.0)
            own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            for name, tensor in own:
                if id(tensor) not in seen and tensor.is_floating_point():
                    seen.add(id(tensor))
                    _draw(layer, name, tensor, generator)
                    tensor *= gain


def _draw(layer: torch.nn.Module, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    kind = type(layer).__name__
    parameter = isinstance(tensor, torch.nn.Parameter)
    if name == "running_var" or "layer_scale" in name or (name == "weight" and "Norm" in kind):
        tensor.uniform_(0.5, 1.5, generator=generator)
    elif name == "bias" and "BatchNorm" in kind:
        tensor.normal_(0.5, 0.3, generator=generator)  # few channels are dead behind the ReLU that follows
    elif name == "running_mean" or (parameter and tensor.dim() == 1):
        tensor.normal_(0, 0.3, generator=generator)
    elif parameter and (isinstance(layer, torch.nn.Embedding) or "position" in name or name.endswith("token")):
        tensor.normal_(0, 1, generator=generator)
    elif parameter:
        tensor.normal_(0, _fan_in(layer, tensor) ** -0.5, generator=generator)


def _fan_in(layer: torch.nn.Module, tensor: torch.Tensor) -> float:
    if isinstance(layer, torch.nn.modules.conv._ConvNd):
        return float(tensor[0].numel()) / 2  # a ReLU halves the square
    # GPT-2's linear layer is stored [inputs, outputs], all others the other way round.
    return float(tensor.shape[0 if type(layer).__name__ == "Conv1D" else -1])


def normal(*shape: int) -> torch.Tensor:
    """Standard normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(vocabulary: int, *shape: int) -> torch.Tensor:
    """Whole numbers below `vocabulary`, the same each time."""
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters log what goes on in them; what matters is checked on the file that they write."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
