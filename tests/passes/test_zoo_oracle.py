"""The mask oracle on every model of the zoo: the pruned graph computes what the dense one does with masked indices."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from helpers.masking import mask_readers
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.dims.algebra import Dim
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.shrink import shrink
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.facts import dims

MODELS = zoo("small", "real")
LIGHT = zoo("light")
"""In true width, filled with random numbers; `benchmarks/pruning.py --parts oracle` takes models in true size, too."""


@cache
def _cleaned(name: str) -> Graph:
    """As `compress` would prune it: constants folded, so that fewer sizes are unknown."""
    return run_pipeline({**MODELS, **LIGHT}[name](), parse_pipeline("clean"), Context(runner=OnnxRuntimeRunner)).graph


def _free(found: Dimensions) -> list[Group]:
    return [group for group in groups(found) if group.pin is None and group.inexact is None]


def _choose(group: Group, share: float, random: np.random.Generator) -> np.ndarray:
    removed = min(max(1, round(group.size * share)), group.size - 1)
    return np.sort(random.choice(group.size, group.size - removed, replace=False))


def _run(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs; of a final sigmoid what it reads: far out, where random inputs drive it, it blows up rounding."""
    makers = [(value, graph.producer(value)) for value in graph.outputs]
    names = [op.inputs[0].name if op and op.inputs[0] and op.op_type == "Sigmoid" else out.name for out, op in makers]
    with OnnxRuntimeRunner(graph, outputs=names) as runner:
        return runner.run(feeds)


def _difference(name: str, share: float, which: slice, seed: int) -> float | None:
    """The largest error of an output, relative to its largest magnitude; None where no group is free."""
    masked, pruned = _cleaned(name).clone(), _cleaned(name).clone()
    feeds = random_feeds(masked, seed)
    here, there = dims(masked), dims(pruned)
    random = np.random.default_rng(seed)
    kept_here: dict[Dim, np.ndarray] = {}
    kept_there: dict[Dim, np.ndarray] = {}
    for one, other in list(zip(_free(here), _free(there), strict=True))[which]:
        kept_here[one.dim] = kept_there[other.dim] = _choose(one, share, random)
    if not kept_here:
        return None
    mask_readers(masked, here, kept_here)
    shrink(pruned, there, kept_there)
    pruned.verify()
    wanted, found = _run(masked, feeds), _run(pruned, feeds)
    worst = 0.0
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        if array.dtype.kind == "f":
            worst = max(worst, float(np.abs(found[name] - array).max() / (np.abs(array).max() + 1e-6)))
    return worst


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_everything_at_once(name: str, share: float) -> None:
    """A share of 0 is one unit of each group."""
    difference = _difference(name, share, slice(None), 1)
    if difference is None:
        pytest.skip("nothing of it is free and exact")
    assert difference < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_one_group_at_a_time(name: str) -> None:
    count = len(_free(dims(_cleaned(name))))
    for index in range(0, count, max(1, count // 8)):
        difference = _difference(name, 0.25, slice(index, index + 1), index)
        assert difference is not None
        assert difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_half_of_everything_in_true_width(name: str) -> None:
    difference = _difference(name, 0.5, slice(None), 1)
    assert difference is not None
    assert difference < 1e-4
