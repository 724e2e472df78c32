"""`replay`: the bytes that `compress` wrote, the same indices on another checkpoint, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.face_models import Cli, make_graph
from helpers.structures import structures
from helpers.zoo import zoo

import secateur as sc
from secateur.ir.build import emit
from secateur.ir.equal import first_difference
from secateur.ir.errors import DataError, RefusedError, SecateurError
from secateur.ir.onnx_write import to_bytes

Kept = dict[str, dict[int, np.ndarray]]
EXACT = "prune{ratio=0.5, align=1, dims=all},sparsify{worthwhile=false}"


def another_checkpoint(graph: sc.Graph) -> sc.Graph:
    """The same graph with other floating-point weights."""
    twin, random = graph.clone(), np.random.default_rng(11)
    for value in twin.constants():
        if value.const is not None and value.const.dtype.is_float:
            drawn = random.uniform(0.1, 1.0, value.const.shape).astype(value.const.numpy().dtype)
            value.set_const(sc.Tensor(drawn, value.const.dtype))
    return twin


def weights(graph: sc.Graph) -> dict[str, np.ndarray]:
    return {value.name: value.const.numpy() for value in graph.constants() if value.const is not None}


def siamese() -> sc.Graph:
    """Two convolutions that share a weight."""
    net = Net().conv(8)
    shared, start = net.weight(5, 8, 3, 3), net.value
    first = emit(net.graph, "Conv", [start, shared]).output
    second = emit(net.graph, "Conv", [emit(net.graph, "Relu", [start]).output, shared]).output
    net.value = emit(net.graph, "Add", [first, second]).output
    return net.done()


def test_the_file_is_the_one_that_compress_wrote(cli: Cli, model: Path, tmp_path: Path) -> None:
    small, manifest, again = (tmp_path / name for name in ("small.onnx", "kept.json", "again.onnx"))
    ran = cli("compress", model, "--recipe", EXACT, "-o", small, "--manifest", manifest)
    assert ran.code == 0, ran.err
    found = cli("replay", manifest, model, "-o", again, "--json")
    assert found.code == 0, found.err
    assert again.read_bytes() == small.read_bytes()
    assert found.json["exact"]
    assert found.json["parameters"]["after"] < found.json["parameters"]["before"] == 5642
    assert {"conv1.weight", "conv2.weight"} <= set(found.json["cut"])
    assert "conv2.weight" in found.json["masked"]
    assert "parameters became" in cli("replay", manifest, model, "-o", again).out


@pytest.mark.parametrize("name", structures())
def test_every_structure_comes_out_byte_for_byte(name: str) -> None:
    graph = structures()[name]()
    done = sc.compress(graph, "prune{ratio=0.4, align=1, dims=all}")
    assert done.manifest.exact
    assert to_bytes(sc.replay(done.manifest, graph)) == to_bytes(done.graph)


def test_a_weight_that_two_layers_share_stays_one() -> None:
    graph = siamese()
    done = sc.compress(graph, "prune{align=1}")
    assert len(weights(done.graph)) == len(weights(graph))
    assert to_bytes(sc.replay(done.manifest, graph)) == to_bytes(done.graph)


@pytest.mark.parametrize("name", ["attention", "dense_concat", "gated_ffn", "channel_shuffle"])
def test_on_another_checkpoint_the_same_indices_stay(name: str) -> None:
    graph = structures()[name]()
    other = another_checkpoint(graph)
    before = to_bytes(other)
    done = sc.compress(graph, "prune{ratio=0.4, align=1, dims=all}")
    replayed = sc.replay(done.manifest, other)
    assert to_bytes(other) == before
    clean = weights(sc.compress(other, "clean").graph)
    found = weights(replayed)
    assert found.keys() == weights(done.graph).keys()
    for weight, axes in done.manifest.kept.items():
        for axis, some in axes.items():
            clean[weight] = clean[weight].take(some, axis)
    for weight in clean.keys() & found.keys():
        if clean[weight].dtype.kind == "f":
            np.testing.assert_array_equal(found[weight], clean[weight])
    assert {one: array.shape for one, array in found.items()} == {
        one: array.shape for one, array in weights(done.graph).items()
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vit", "drop-blocks{count=1}"),
        ("llama", "drop-blocks{part=attention, count=1, protect=0}, prune{ratio=0.3, dims=ffn}"),
        ("bert", "drop-blocks{part=layer, count=1, protect=0}, prune{ratio=0.3, align=1}"),
        ("experts-routed", "prune{ratio=0.4, dims=experts, exact=false}"),
        ("experts-dense", "prune{ratio=0.4, dims=experts, exact=false}"),
    ],
)
def test_blocks_and_experts_that_went_go_again(name: str, text: str) -> None:
    graph = zoo("small")[name]()
    done = sc.compress(graph, text)
    assert to_bytes(sc.replay(done.manifest, graph)) == to_bytes(done.graph)


def test_masks_go_onto_another_checkpoint(graph: sc.Graph) -> None:
    done = sc.compress(graph, EXACT)
    found = weights(sc.replay(done.manifest, another_checkpoint(graph)))
    assert done.manifest.masks
    for name, mask in done.manifest.masks.items():
        np.testing.assert_array_equal(found[name] != 0, mask)


def test_refitted_and_quantized_runs_replay_their_surgery_only(graph: sc.Graph, calib: Path) -> None:
    pruned = sc.compress(graph, "prune{ratio=0.5}", data=calib)
    everything = sc.compress(graph, "prune{ratio=0.5},quantize,clean", data=calib)
    assert not everything.manifest.exact
    replayed = sc.replay(everything.manifest, graph)
    shapes, expected = ({n: a.shape for n, a in weights(g).items()} for g in (replayed, pruned.graph))
    assert shapes == expected
    assert all(op.op_type != "QuantizeLinear" for op in replayed.ops())


def test_no_lossy_pass_means_nothing_but_cleaning(graph: sc.Graph) -> None:
    done = sc.compress(graph, "remove-identities")
    assert to_bytes(sc.replay(done.manifest, graph)) == to_bytes(done.graph)
    assert first_difference(sc.replay(sc.Manifest(), graph), graph) is None


def _missing(kept: Kept) -> None:
    kept["elsewhere.weight"] = {0: np.array([0, 1])}


def _too_long(kept: Kept) -> None:
    kept["conv2.weight"][0] = np.array([0, 40])


def _no_such_axis(kept: Kept) -> None:
    kept["conv2.weight"][7] = np.array([0])


def _not_a_weight(kept: Kept) -> None:
    kept["conv2_relu"] = {1: np.array([0])}


def _at_odds(kept: Kept) -> None:
    kept["conv2.bias"][0] = np.arange(len(kept["conv2.bias"][0]))


def _pinned(kept: Kept) -> None:
    kept["fc.weight"][0] = np.array([0, 1])


def _turned(kept: Kept) -> None:
    kept["fc.weight"][1] = kept["fc.weight"][1][::-1]


def _left_out(kept: Kept) -> None:
    del kept["conv2.bias"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, r"'elsewhere.weight', axis 0: expected \[0, 1\] \(2 indices\), found no such weight"),
        (_too_long, r"'conv2.weight', axis 0: expected at least 41 indices, found 32"),
        (_no_such_axis, r"'conv2.weight', axis 7: expected at least 1 indices, found 0"),
        (_not_a_weight, r"'conv2_relu': expected a weight, found a value"),
        (_at_odds, r"'conv2.bias', axis 0: expected what 'conv2.weight', axis 0 keeps, which goes with it"),
        (_pinned, r"'fc.weight', axis 0: .* found one that is pinned: .*output of the model"),
        (_turned, r"'fc.weight', axis 1: expected what 'conv2.weight', axis 0 keeps, which goes with it"),
        (_left_out, r"'conv2.bias', axis 0: expected all indices to stay"),
    ],
)
def test_a_manifest_of_another_graph_is_refused(graph: sc.Graph, spoil: Callable[[Kept], None], words: str) -> None:
    manifest, before = sc.compress(graph, "prune{ratio=0.5}").manifest, to_bytes(graph)
    spoil(manifest.kept)
    with pytest.raises(RefusedError, match=words) as caught:
        sc.replay(manifest, graph)
    assert "another checkpoint" in (caught.value.hint or "")
    assert to_bytes(graph) == before


def test_indices_that_split_a_head_are_refused() -> None:
    graph = structures()["attention"]()
    manifest = sc.compress(graph, "prune{ratio=0.4, align=1, dims=heads}").manifest
    name, axes = next((name, axes) for name, axes in manifest.kept.items() if len(next(iter(axes.values()))) > 1)
    axis = next(iter(axes))
    axes[axis] = axes[axis][:-1]
    with pytest.raises(RefusedError, match=f"'{name}', axis {axis}: expected .*found"):
        sc.replay(manifest, graph)


def test_what_a_shared_weight_alone_says_is_refused_by_name() -> None:
    """Two uses of one weight keep different indices of it, and no other weight tells which use keeps which."""
    net = Net().conv(8)
    shared = net.weight(8, 8, 3, 3)
    graph = net.op("Conv", shared).op("Relu").op("Conv", shared).op("Relu").conv(5, 1).done()
    manifest = sc.compress(graph, "prune{align=1}").manifest
    with pytest.raises(RefusedError, match=r"'w_2.*', axis .: expected .* found"):
        sc.replay(manifest, graph)


def test_several_prunings_replay_as_one(graph: sc.Graph) -> None:
    done = sc.compress(graph, "prune{ratio=0.25, align=1},clean,prune{ratio=0.3, align=1},clean")
    assert done.report.run.entries[3].rewrites
    assert first_difference(sc.replay(done.manifest, graph), done.graph) is None


def test_masks_that_do_not_fit_are_refused(graph: sc.Graph) -> None:
    manifest = sc.Manifest()
    manifest.mask("fc.weight", np.ones((3, 3), bool))
    with pytest.raises(RefusedError, match=r"'fc.weight': expected a weight of shape \[3, 3\], found one of shape"):
        sc.replay(manifest, graph)
    manifest = sc.Manifest()
    manifest.mask("nowhere", np.ones((3, 3), bool))
    with pytest.raises(RefusedError, match=r"'nowhere': .* found no such weight"):
        sc.replay(manifest, graph)


def test_a_file_that_is_no_manifest_writes_nothing(cli: Cli, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no manifest"):
        sc.replay(model, model)
    ran = cli("replay", model, model, "-o", tmp_path / "out.onnx")
    assert ran.code == 1
    assert "is no manifest" in ran.err
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_with_other_sizes_is_refused(graph: sc.Graph) -> None:
    manifest = sc.compress(graph, "prune{ratio=0.5}").manifest
    with pytest.raises(SecateurError, match=r"'conv1.weight', axis 0: expected"):
        sc.replay(manifest, Net().conv(8).conv(5).done())
    assert first_difference(graph, make_graph()) is None
