"""SparseGPT and Wanda by the classes that their authors published, block by block on torch twins of the models.

The classes are taken as they are from checkouts beside each other, `PATH/sparsegpt` (github.com/IST-DASLab/sparsegpt)
and `PATH/wanda` (github.com/locuslab/wanda). Around them goes the loop of `llama.py` and `prune.py` there, which is
written for older releases of `transformers` and for data sets of their own: all layers of a block are calibrated at
once on what the pruned blocks before it give, pruned, and the block's new outputs feed the next.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quality.sparse import TASKS
from quality.task import ROOT, Array, Feeds

sys.path.insert(0, str(ROOT / "tests"))

NEEDED = {"reference SparseGPT": "sparsegpt/sparsegpt.py", "reference Wanda": "wanda/lib/layerwrapper.py"}
"""Files by method."""
SAME = 1e-2
"""How far a twin may be from its ONNX model, as 1 - R² of what is judged."""


def missing(method: str, folder: Path | None) -> str | None:
    """What a row lacks; None where it can be run."""
    if folder is None:
        return "needs --reference, a folder with checkouts of IST-DASLab/sparsegpt and locuslab/wanda"
    file = folder / NEEDED[method]
    return None if file.is_file() else f"--reference {folder} has no {NEEDED[method]}"


def measure(name: str, pattern: str, method: str, folder: Path, expected: Array) -> dict[str, Any]:
    """Scores of the pruned twin."""
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    task = TASKS[name]
    module, blocks, output = twin(name)

    def run(feeds: Feeds) -> dict[str, Array]:
        given = {key: torch.from_numpy(array) for key, array in feeds.items()}
        return {output: module(**given, return_dict=False)[0].float().numpy()}

    probe = task.calibrate()[0]
    before = run(probe)[output]
    prune = {"reference SparseGPT": sparsegpt, "reference Wanda": wanda}[method](folder, pattern)
    start, spent = time.perf_counter(), time.process_time()
    sequentially(module, blocks, task.calibrate(), prune)
    taken = {"seconds": time.perf_counter() - start, "processor": time.process_time() - spent}
    weights = [layer.weight for block in blocks for layer in linears(block)]
    gone = sum(int((weight == 0).sum()) for weight in weights)
    everything = sum(layer.weight.numel() for layer in linears(module))
    shares = {"zeros": gone / everything, "sparse": sum(one.numel() for one in weights) / everything}
    distance = twin_distance(name, probe, before, output)
    assert distance < SAME, f"the torch twin of {name} differs from its ONNX model by {distance}"
    return {"scores": task.judge(task.evaluate(run), expected), **shares, **taken}


def twin_distance(name: str, probe: Feeds, found: Array, output: str) -> float:
    """1 - R² between what the ONNX model and the twin make of the same data."""
    import secateur as sc
    from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner

    with OnnxRuntimeRunner(sc.load(TASKS[name].model())) as runner:
        wanted = runner.run(probe)[output]
    return float(np.square(found - wanted).mean() / wanted.var())


def twin(name: str) -> tuple[Any, Sequence[Any], str]:
    """The module that the ONNX file was exported from, its blocks, and what the output is called."""
    from helpers.zoo_real import minilm, smollm2

    recipe = {"smollm2": smollm2, "minilm": minilm}[name]()
    module = recipe.module.eval()
    if name == "smollm2":
        module.config.use_cache = False
    blocks = module.model.layers if name == "smollm2" else module.encoder.layer
    return module, blocks, recipe.outputs[0]


def linears(block: Any) -> list[Any]:
    """The layers in it; those of a block are pruned."""
    import torch

    return [layer for layer in block.modules() if isinstance(layer, torch.nn.Linear)]


def sequentially(module: Any, blocks: Sequence[Any], data: Sequence[Feeds], wrap: Callable[[Any], Any]) -> None:
    """Prunes each block on what those before it give by then.

    Args:
        module: the model.
        blocks: those that are pruned, each fed by the one before.
        data: batches.
        wrap: a layer to an object with `add_batch(input, output)` for each batch, and `prune()` at the end.
    """
    calls = [first_call(module, blocks[0], feeds) for feeds in data]
    for block in blocks:
        wrapped = [(layer, wrap(layer)) for layer in linears(block)]
        handles = [
            layer.register_forward_hook(lambda _, given, made, one=one: one.add_batch(given[0], made))
            for layer, one in wrapped
        ]
        for given, others in calls:
            block(*given, **others)
        for handle in handles:
            handle.remove()
        for _, one in wrapped:
            one.prune()
        for index, (given, others) in enumerate(calls):
            made = block(*given, **others)
            calls[index] = ((made[0] if isinstance(made, tuple) else made, *given[1:]), others)


class _Stop(Exception):
    """The first block was reached."""


def first_call(module: Any, block: Any, feeds: Feeds) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the first block is called with."""
    import torch

    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def catch(_: Any, given: tuple[Any, ...], others: dict[str, Any]) -> None:
        seen.append((given, others))
        raise _Stop

    handle = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        module(**{key: torch.from_numpy(array) for key, array in feeds.items()})
    except _Stop:
        pass
    finally:
        handle.remove()
    return seen[0]


def numbers(pattern: str) -> tuple[float, int, int]:
    """(share, zeros, group) as both take them: 0, 0 for what is unstructured."""
    if pattern.endswith("%"):
        return float(pattern[:-1]) / 100, 0, 0
    keep, _, group = pattern.partition(":")
    return 1 - int(keep) / int(group), int(group) - int(keep), int(group)


def sparsegpt(folder: Path, pattern: str) -> Callable[[Any], Any]:
    """With blocks of 128 columns and 1 % damping, its defaults."""
    import torch

    sys.path.insert(0, str(folder / "sparsegpt"))
    published: Any = importlib.import_module("sparsegpt").SparseGPT
    torch.cuda.synchronize = lambda *_: None  # it waits for a GPU that need not be there
    share, gone, group = numbers(pattern)

    class Layer(published):  # type: ignore[misc]
        def prune(self) -> None:
            self.fasterprune(share, prunen=gone, prunem=group)
            self.free()

    return Layer


def wanda(folder: Path, pattern: str) -> Callable[[Any], Any]:
    """Its statistics by its class; the mask as in its `prune_wanda`, which is one function with data and model."""
    import torch

    sys.path.insert(0, str(folder / "wanda" / "lib"))
    published: Any = importlib.import_module("layerwrapper").WrappedGPT
    share, gone, group = numbers(pattern)

    class Layer(published):  # type: ignore[misc]
        def prune(self) -> None:
            weight = self.layer.weight.data
            score = weight.abs() * self.scaler_row.sqrt().reshape(1, -1)
            mask = torch.zeros_like(weight, dtype=torch.bool)
            if group:
                for start in range(0, weight.shape[1], group):
                    least = torch.topk(score[:, start : start + group], gone, dim=1, largest=False)[1]
                    mask.scatter_(1, start + least, True)
            else:
                order = torch.sort(score, dim=-1, stable=True)[1]
                mask.scatter_(1, order[:, : int(weight.shape[1] * share)], True)
            weight[mask] = 0

    return Layer
