"""Experts of real mixtures are pruned: the model without them computes what the dense one does when it starves them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from helpers.mask_oracle import difference, run
from helpers.masking import mask_readers
from helpers.mixtures import MIXTURES, starve
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, Tensor
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_write import to_bytes
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.facts import dims
from secateur.replaying import replay

NAMES = ("experts-dense", "experts-routed", "experts-routed-opset17", "mixtral", "qwen-moe")
UNROLLED = NAMES[:3]
MODELS = {name: model for name, model in zoo("small").items() if name in NAMES}
KEPT = ([0, 1, 2, 4], [1, 2, 4], [0, 3, 4], [2, 3], [0, 4])
"""All but one, three, and half of five experts; two are taken."""


@cache
def _model(name: str) -> Graph:
    return MODELS[name]()


def _experts(found: Dimensions) -> list[Group]:
    roles = Roles(found)
    return [group for group in groups(found) if roles.kind(group) is Kind.EXPERTS]


def _check(graph: Graph) -> None:
    graph.verify()
    onnx.checker.check_model(onnx.load_from_string(to_bytes(graph)), full_check=True)


def _prune(graph: Graph, text: str) -> Graph:
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner, seed=1)).graph


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("where", [slice(None), slice(0, 1), slice(1, 2)], ids=["all", "first", "second"])
def test_what_is_left_computes_what_the_others_did(name: str, where: slice) -> None:
    graph = _model(name)
    feeds = random_feeds(graph, 3)
    dense = run(graph, feeds)
    for number in range(len(KEPT)):
        starved, short = graph.clone(), graph.clone()
        here, there = dims(starved), dims(short)
        if not _experts(here)[where]:
            pytest.skip("it has one mixture")
        # Each mixture loses other experts.
        sets = [KEPT[(number + step) % len(KEPT)] for step in range(2)]
        for group, some in zip(_experts(here)[where], sets, strict=False):
            starve(starved, group, sorted({*range(group.size)} - {*some}))
        chosen = dict(zip((group.dim for group in _experts(there)[where]), map(np.array, sets), strict=False))
        shrink(short, there, chosen)
        _check(short)
        found = run(short, feeds)
        assert difference(run(starved, feeds), found) < 1e-4
        assert difference(dense, found) > 1e-3, "nobody would notice"


@pytest.mark.parametrize("name", MODELS)
def test_beside_everything_else_that_is_exact(name: str) -> None:
    """Experts and the neurons, heads and widths of those that stay go in one piece of surgery."""
    graph = _model(name)
    feeds = random_feeds(graph, 5)
    masked, short = graph.clone(), graph.clone()
    here, there = dims(masked), dims(short)
    kept, chosen = {}, {}
    for one, other in zip(groups(here), groups(there), strict=True):
        if one.pin is None and one.inexact is None:
            kept[one.dim] = chosen[other.dim] = np.arange(one.size)[one.size // 3 :]
    mask_readers(masked, here, kept)
    for one, other in zip(_experts(here), _experts(there), strict=True):
        starve(masked, one, [0, 3])
        chosen[other.dim] = np.array([1, 2, 4])
    assert len(chosen) > len(_experts(there))
    shrink(short, there, chosen)
    _check(short)
    assert difference(run(masked, feeds), run(short, feeds)) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_what_goes_is_what_a_starved_model_does_not_read(name: str) -> None:
    """A second opinion, by experiment: numbers of the removed weights don't matter to the starved model, others do."""
    graph = _model(name)
    feeds = random_feeds(graph, 1)
    starved, short = graph.clone(), graph.clone()
    gone, random = 1, np.random.default_rng(0)
    starve(starved, _experts(dims(starved))[0], [gone])
    found = dims(short)
    (group, *_) = _experts(found)
    stacked = _stacked(group)
    shrink(short, found, {group.dim: np.setdiff1d(np.arange(group.size), [gone])})
    wanted = run(starved, feeds)
    for value in list(starved.constants()):
        before = value.const
        if before is None or not before.dtype.is_float or len(before.shape) < 2 or not before.numpy().any():
            continue
        array, noise = before.numpy().copy(), random.normal(size=before.shape).astype(np.float32)
        axis = stacked.get(value.name, 0)
        part = gone if value.name in stacked else slice(None)
        np.moveaxis(array, axis, 0)[part] += np.moveaxis(noise, axis, 0)[part]
        value.set_const(Tensor(array))
        matters = difference(wanted, run(starved, feeds)) > 1e-6
        value.set_const(before)
        assert matters == (value.name in _names(short) and value.name not in stacked), value.name


def _stacked(group: Group) -> dict[str, int]:
    """Weights that have a matrix for each expert, and the axis that counts these."""
    return {one.weight.name: one.axis for one in group.weights if len(one.weight.const.shape) > 2}  # type: ignore[union-attr]


def _names(graph: Graph) -> set[str]:
    return {value.name for value in graph.constants()}


@pytest.mark.parametrize("name", UNROLLED)
def test_nothing_of_a_removed_expert_is_left(name: str) -> None:
    graph = _prune(_model(name), "clean")
    short = graph.clone()
    found = dims(short)
    chosen = _experts(found)
    branches = [branch for group in chosen for branch in found.branches[group.dim][1:3]]
    gone = [op for branch in branches for op in branch.ops]
    matrices = [value.const for branch in branches for value in branch.weights if value.const is not None]
    assert len(matrices) == 3 * len(branches)
    shrink(short, found, {group.dim: np.array([0, 3, 4]) for group in chosen})
    assert len(gone) >= 2 * 2 * 9
    assert len(short.ops()) == len(graph.ops()) - len(gone)
    assert len(_prune(short, "remove-dead-code").ops()) == len(short.ops())
    columns = len(branches) * 60  # of the routers
    assert _size(graph) - _size(short) == columns + sum(tensor.size for tensor in matrices)
    # Constants that were shared, and are of several sizes now, get names of their own.
    assert _names(short) <= _names(graph) | {f"{name}_1" for name in _names(graph)}
    assert [value.name for value in short.outputs] == [value.name for value in graph.outputs]


def _size(graph: Graph) -> int:
    """Numbers in float matrices; zeros to add to are left out: where they are shared they may become several."""
    arrays = [value.const for value in graph.constants() if value.const is not None and value.const.dtype.is_float]
    return sum(tensor.size for tensor in arrays if len(tensor.shape) > 1 and tensor.numpy().any())


@pytest.mark.parametrize("name", MODELS)
def test_without_data_the_largest_experts_stay(name: str) -> None:
    graph = _model(name)
    short = _prune(graph, "prune{dims=experts, exact=false, ratio=0.4}")
    _check(short)
    assert {group.size for group in _experts(dims(short))} == {3}
    found = run(short, random_feeds(short))
    assert all(np.isfinite(array).all() for array in found.values())


@pytest.mark.parametrize("name", MODELS)
def test_an_expert_that_is_nearly_nothing_goes_first(name: str) -> None:
    graph, weak = _model(name).clone(), 2
    found = dims(graph)
    group = _experts(found)[0]
    stacked = _stacked(group)
    branches = found.branches.get(group.dim)
    weakened = [value.name for value in branches[weak].weights] if branches else list(stacked)
    for value in map(graph.__getitem__, weakened):
        assert value.const is not None
        array = value.const.numpy().copy()
        np.moveaxis(array, stacked.get(value.name, 0), 0)[weak if stacked else slice(None)] *= 1e-3
        value.set_const(Tensor(array))
    short = _prune(graph, "prune{dims=experts, exact=false, ratio=0.2}")
    for name in weakened:
        left = short.get(name)
        if not stacked:
            assert left is None
        else:
            assert left is not None and left.const is not None and left.const.shape[0] == group.size - 1
            assert np.abs(left.const.numpy()).max((1, 2)).min() > 1e-2


def test_more_than_may_go_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"gate.weight:0: TopK 'node_topk__1' takes the best 2 of what would be 1"):
        _prune(_model("mixtral"), "prune{dims=experts, exact=false, ratio=0.9}")


def test_exact_keeps_them_and_says_why() -> None:
    done = run_pipeline(_model("mixtral"), parse_pipeline("prune{dims=experts, ratio=0.4}"), Context())
    notes = " ".join(note for entry in done.report.entries for note in entry.notes)
    assert "mlp.gate.weight:0 keeps its 5: Softmax 'node_softmax' shares out one among its indices" in notes
    assert {group.size for group in _experts(dims(done.graph))} == {5}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", ["prune{dims=ffn, align=1}, %s", "%s, prune{dims=ffn, align=1}", "%s"])
def test_a_manifest_replays_it(name: str, text: str) -> None:
    graph = _model(name)
    pipeline = text % "prune{dims=experts, exact=false, ratio=0.4}"
    context = Context(runner=OnnxRuntimeRunner, manifest=Manifest(pipeline=pipeline))
    done = run_pipeline(graph, parse_pipeline(pipeline), context)
    assert done.manifest.exact
    assert str(replay(done.manifest, graph)) == str(done.graph)


@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_to_write_a_mixture_is_pruned(name: str) -> None:
    graph = MIXTURES[name]()
    short = _prune(graph, "prune{dims=experts, exact=false, ratio=0.4}")
    _check(short) if name != "fused" else short.verify()
    assert [group.size for group in _experts(dims(short))] == [3]
    assert run(short, random_feeds(short))


def test_an_expert_that_gives_nothing_goes_first() -> None:
    graph = MIXTURES["all but one"]()
    short = _prune(graph, "prune{dims=experts, exact=false, ratio=0.2}")
    assert {f"up{index}" for index in range(4)} <= _names(short)
