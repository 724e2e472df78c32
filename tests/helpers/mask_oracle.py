"""The mask oracle: the pruned graph computes what the dense graph computes when removed indices read as zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from helpers.masking import mask_readers

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.dims.algebra import Indices
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.shrink import shrink
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known

Feeds = Mapping[str, np.ndarray]
SHARES = (0.0, 0.25, 0.5)
"""0 stands for one index."""


def analyse(graph: Graph) -> Dimensions:
    return dimensions(Known(graph, infer(graph)))


def free(found: Dimensions, *, exact: bool = True) -> list[Group]:
    """The groups that may be pruned, the exact ones or the others."""
    return [group for group in groups(found) if group.pin is None and (group.inexact is None) is exact]


def choose(size: int, share: float, random: np.random.Generator) -> Indices:
    """Random indices that stay when a share goes: at least one of them stays, and at least one goes."""
    gone = min(max(1, round(size * share)), size - 1)
    return np.sort(random.choice(size, size - gone, replace=False))


def masked(graph: Graph, kept: Mapping[int, Indices], *, exact: bool = True) -> Graph:
    """A copy in which the removed indices of the groups with these numbers read as zero."""
    copy = graph.clone()
    found = analyse(copy)
    chosen = free(found, exact=exact)
    mask_readers(copy, found, {chosen[number].dim: some for number, some in kept.items()})
    return copy


def pruned(graph: Graph, kept: Mapping[int, Indices], *, exact: bool = True) -> Graph:
    """A copy without the removed indices."""
    copy = graph.clone()
    found = analyse(copy)
    chosen = free(found, exact=exact)
    shrink(copy, found, {chosen[number].dim: some for number, some in kept.items()})
    copy.verify()
    return copy


def run(graph: Graph, feeds: Feeds, runs: str = "ort") -> dict[str, np.ndarray]:
    """Runs with onnxruntime, or with onnx's own evaluator."""
    if runs == "ort":
        with OnnxRuntimeRunner(graph, threads=1, optimize=False) as runner:
            return runner.run(feeds)
    import onnx
    from onnx.reference import ReferenceEvaluator

    from secateur.ir.onnx_write import to_bytes

    found = ReferenceEvaluator(onnx.load_from_string(to_bytes(graph))).run(None, dict(feeds))
    return dict(zip((value.name for value in graph.outputs), map(np.asarray, found), strict=True))


def difference(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """The largest error of an output, relative to its largest magnitude."""
    worst = 0.0
    for name, array in wanted.items():
        assert found[name].shape == array.shape, name
        assert np.isfinite(array.astype(np.float64)).all(), name
        error = np.abs(found[name].astype(np.float64) - array).max(initial=0)
        worst = max(worst, float(error / (np.abs(array).max(initial=0) + 1e-6)))
    return worst


def choices(sizes: Sequence[int], seed: int = 0) -> list[dict[int, Indices]]:
    """One group at a time and all at once, each with one index, a quarter, and half of the indices removed."""
    random = np.random.default_rng(seed)
    found: dict[tuple[tuple[int, bytes], ...], dict[int, Indices]] = {}
    for share in SHARES:
        sets = [{number: choose(size, share, random)} for number, size in enumerate(sizes)]
        if len(sizes) > 1:
            sets.append({number: choose(size, share, random) for number, size in enumerate(sizes)})
        for kept in sets:
            found[tuple((number, some.tobytes()) for number, some in kept.items())] = kept
    return list(found.values())
