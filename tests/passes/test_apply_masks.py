"""Masks from files: the small model computes what the dense one does with the same things masked or gated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.dropping import silenced
from helpers.graphs import Net, random_feeds, tiny_graphs
from helpers.mask_oracle import analyse
from helpers.masking import mask_readers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.build import add_constant, emit
from secateur.ir.dims.groups import Group, groups
from secateur.ir.errors import DataError, RefusedError
from secateur.passes.masks.decide import Entry, Rule, combined
from secateur.passes.masks.file import read_masks

Masks = Mapping[str, Any]
_GRAPHS = tiny_graphs()


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., sc.Result]:
    """Writes masks into a file and applies it."""

    def call(graph: Graph, masks: Masks, options: str = "", **more: Any) -> sc.Result:
        path = tmp_path / "masks.npz"
        np.savez(path, **{name: np.asarray(values) for name, values in masks.items()})
        return sc.compress(graph, f'apply-masks{{file="{path}"{options}}}', clean=False, **more)

    return call


def outputs(graph: Graph, seed: int = 4) -> list[NDArray[Any]]:
    with OnnxRuntimeRunner(graph) as runner:
        return list(runner.run(random_feeds(graph, seed)).values())


def check_same(one: Graph, other: Graph) -> None:
    for seed in (4, 5):
        for a, b in zip(outputs(one, seed), outputs(other, seed), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def masked(graph: Graph, kept: Mapping[str, NDArray[Any]]) -> Graph:
    """The dense graph, in which what these groups (by name) lose reads as zero."""
    copy = graph.clone()
    found = analyse(copy)
    by_name = {group.name: group.dim for group in groups(found)}
    assert mask_readers(copy, found, {by_name[name]: np.flatnonzero(stays) for name, stays in kept.items()})
    return copy


def gated(graph: Graph, name: str, gates: Any) -> Graph:
    """The dense graph with one value multiplied before everything that reads it."""
    copy = graph.clone()
    value = copy[name]
    reads = copy.uses(value)
    made = emit(copy, "Mul", [value, add_constant(copy, "gates", np.asarray(gates, np.float32))]).output
    for op, port in reads:
        copy.set_inputs(op, [made if at == port else old for at, old in enumerate(op.inputs)])
    return copy


def free(graph: Graph) -> list[Group]:
    return [group for group in groups(analyse(graph)) if group.pin is None and group.inexact is None]


# Units


_CASES = [
    (name, group.name, group.size)
    for name in ("gemm_mlp", "matmul_mlp", "depthwise", "concat", "attention", "residual", "conv_bn_relu")
    for group in free(_GRAPHS[name]())
]


@pytest.mark.parametrize(("name", "group", "size"), _CASES)
def test_what_is_masked_goes_and_nothing_else(
    apply: Callable[..., sc.Result], name: str, group: str, size: int
) -> None:
    dense = _GRAPHS[name]()
    stays = np.arange(size) % 3 != 1
    done = apply(dense, {group: stays})
    check_same(done.graph, masked(dense, {group: stays}))
    assert done.manifest.exact
    weight = group.partition(":")[0]
    assert done.graph[weight].const.size < dense[weight].const.size
    check_same(sc.replay(done.manifest, dense), done.graph)


def test_a_group_can_be_named_by_every_axis_that_it_has(apply: Callable[..., sc.Result]) -> None:
    dense, stays = _GRAPHS["gemm_mlp"](), np.arange(10) % 2 == 0
    made = [str(apply(dense, {name: stays}).graph) for name in ("w1:0", "b1:0", "w2:0")]
    assert made[0] == made[1] == made[2]


@given(st.lists(st.booleans(), min_size=8, max_size=8))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_vector_along_a_product_is_of_the_units_that_it_is_whole_in(
    tmp_path_factory: pytest.TempPathFactory, stays: list[bool]
) -> None:
    """The axis is 2 heads of width 4."""
    dense, mask = _GRAPHS["attention"](), np.array(stays).reshape(2, 4)
    path = tmp_path_factory.mktemp("masks") / "masks.json"
    path.write_text(json.dumps({"query:1": stays}))
    by_head, by_width = (mask == mask[:, :1]).all(), (mask == mask[:1]).all()

    def call() -> Graph:
        return sc.compress(dense, f'apply-masks{{file="{path}"}}', clean=False).graph

    if not mask.any() or not (by_head or by_width):
        with pytest.raises(RefusedError, match="leaves none" if not mask.any() else "not of whole units"):
            call()
    elif mask.all():
        assert str(call()) == str(dense)
    else:
        chosen = {"query:1/4": mask[:, 0]} if by_head else {"query:1": mask[0]}
        check_same(call(), masked(dense, chosen))


def test_a_vector_along_a_sum_is_of_all_its_terms(apply: Callable[..., sc.Result]) -> None:
    dense, stays = _GRAPHS["concat"](), np.arange(10) % 4 != 1
    done = apply(dense, {"head.weight:1": stays})
    check_same(done.graph, masked(dense, {"left.weight:0": stays[:4], "right.weight:0": stays[4:]}))


# Gates

_GATES = np.array([0.0, 0.3, 1.0, 0.7, 0.0, 0.5, 0.9, 1.0, 0.05, 0.6, 0.0, 0.4])


@pytest.mark.parametrize(
    ("name", "group", "size", "value", "shape"),
    [
        ("gemm_mlp", "w1:0", 10, "relu", (10,)),
        ("matmul_mlp", "up:1", 12, "gelu", (12,)),
        ("concat", "left.weight:0", 4, "relu", (4, 1, 1)),
        ("depthwise", "expand.weight:0", 8, "relu_1", (8, 1, 1)),
        ("residual", "a1.weight:0", 8, None, (8, 1, 1)),
        ("attention", "query:1/4", 2, None, (2, 1, 1)),
        ("attention", "value:1", 4, None, (4,)),
    ],
)
def test_gates_that_stay_are_multiplied_in(
    apply: Callable[..., sc.Result], name: str, group: str, size: int, value: str | None, shape: tuple[int, ...]
) -> None:
    dense, gates = _GRAPHS[name](), _GATES[:size].reshape(shape)
    if value is None:
        value = _read_by(dense, "a2" if name == "residual" else "Softmax")
    done = apply(dense, {group: _GATES[:size]}, ", threshold=0")
    check_same(done.graph, gated(dense, value, gates))
    weight = group.partition(":")[0]
    if size > 2:
        assert done.graph[weight].const.size < dense[weight].const.size
    assert not done.manifest.exact


def _read_by(graph: Graph, what: str) -> str:
    """What the op that makes `what` reads; what comes of the matrix product behind a softmax."""
    if what != "Softmax":
        maker = graph.producer(graph[what])
        assert maker is not None and maker.inputs[0] is not None
        return maker.inputs[0].name
    (softmax,) = [op for op in graph.ops() if op.op_type == what]
    (product,) = graph.consumers(softmax.output)
    return product.output.name


def test_gates_below_the_threshold_go_and_the_rest_is_as_gated(apply: Callable[..., sc.Result]) -> None:
    dense, gates = _GRAPHS["gemm_mlp"](), _GATES[:10]
    for options, stays in ((", threshold=0.45", gates > 0.45), (", ratio=0.7", gates >= 0.9), ("", gates > 0.5)):
        done = apply(dense, {"w1:0": gates}, options)
        check_same(done.graph, gated(dense, "relu", np.where(stays, gates, 0)))
        assert done.graph["w1"].const.shape[0] == stays.sum()
        unfolded = apply(dense, {"w1:0": gates}, f"{options}, fold=false")
        check_same(unfolded.graph, masked(dense, {"w1:0": stays}))
        assert unfolded.manifest.exact and not done.manifest.exact


def test_scores_choose_and_are_not_multiplied(apply: Callable[..., sc.Result]) -> None:
    dense, scores = _GRAPHS["gemm_mlp"](), np.linspace(-3, 7, 10)
    with pytest.raises(RefusedError, match=r"gates are in \[0, 1\]") as caught:
        apply(dense, {"w1:0": scores})
    assert "fold=false" in str(caught.value.hint)
    done = apply(dense, {"w1:0": scores}, ", fold=false, ratio=0.5")
    check_same(done.graph, masked(dense, {"w1:0": scores > 2}))


def test_a_gate_that_no_weight_takes_is_refused(apply: Callable[..., sc.Result]) -> None:
    """Queries and keys end in a product of two activations."""
    with pytest.raises(RefusedError, match=r"'query:1' cannot go into weights.*matmul"):
        apply(_GRAPHS["attention"](), {"query:1": [0.9, 0.8, 0.7, 0.1]})
    done = apply(_GRAPHS["attention"](), {"query:1": [0.9, 0.8, 0.7, 0.1]}, ", fold=false")
    check_same(done.graph, masked(_GRAPHS["attention"](), {"query:1": np.array([True, True, True, False])}))


def test_a_gate_of_what_something_else_reads_too_is_refused(apply: Callable[..., sc.Result]) -> None:
    net = Net("twice")
    inner = net.op("Relu", net.op("Gemm", net.input("x", 4, 6), net.weight("w1", 6, 8), net.weight("b1", 8)))
    made = net.op("Gemm", inner, net.weight("w2", 8, 3))
    dense = net.done((made, (4, 3)), (net.op("ReduceSum", inner, net.constant("axis", np.array([1]))), (4, 1)))
    with pytest.raises(RefusedError, match=r"'w1:1' cannot go into weights: ReduceSum .* reads its units"):
        apply(dense, {"w1:1": _GATES[:8]})
    done = apply(dense, {"w1:1": _GATES[:8]}, ", fold=false")
    check_same(done.graph, masked(dense, {"w1:1": _GATES[:8] > 0.5}))


def test_masks_of_tied_weights_must_agree_and_of_gates_the_largest_counts(apply: Callable[..., sc.Result]) -> None:
    dense = _GRAPHS["gemm_mlp"]()
    one, other = np.arange(10) % 2 == 0, np.arange(10) % 3 != 0
    apply(dense, {"w1:0": one, "w2:0": one})
    with pytest.raises(RefusedError, match=r"'w1:0' and 'w2:0' are both of the group 'w1:0', and disagree at 0"):
        apply(dense, {"w1:0": one & other, "w2:0": one})
    gates = one * 0.25, other * 0.75
    done = apply(dense, {"w1:0": gates[0], "w2:0": gates[1]}, ", threshold=0")
    check_same(done.graph, gated(dense, "relu", np.maximum(*gates)))
    assert any("the largest of the gates of w1:0, w2:0" in note for note in done.report.run.entries[0].notes)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 0.99))
def test_a_ratio_takes_the_lowest(gates: list[float], ratio: float) -> None:
    stays = Rule(0.5, ratio).stays(np.array(gates))
    assert stays.sum() == len(gates) - int(len(gates) * ratio + 1e-9) > 0
    kept, gone = np.array(gates)[stays], np.array(gates)[~stays]
    assert not len(gone) or gone.max() <= kept.min()


def test_a_mask_beside_a_gate_is_a_gate() -> None:
    both = combined("it", [Entry("a", np.array([True, False])), Entry("b", np.array([0.5, 0.25]))])
    np.testing.assert_array_equal(both, [1.0, 0.25])


def test_a_repair_aims_at_the_gated_network(apply: Callable[..., sc.Result]) -> None:
    """Units are copies of each other, so that least squares makes up for those that go."""
    dense = _GRAPHS["gemm_mlp"]()
    copied = dense["w1"].const.numpy().copy()
    copied[5:] = copied[:5]
    for name, array in (("w1", copied), ("b1", np.zeros(10, np.float32))):
        dense[name].set_const(sc.Tensor(array))
    x = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    gates = np.where(np.arange(10) < 5, 0.75, 0.25)
    done = apply(dense, {"w1:0": gates}, ", repair=least-squares, damping=0", data={"x": x}, batch_size=4)
    check_same(done.graph, gated(dense, "relu", gates))
    assert done.graph["w1"].const.shape == (5, 6)
    with pytest.raises(RefusedError, match="needs calibration data"):
        apply(dense, {"w1:0": gates}, ", repair=least-squares")


# Blocks


def test_blocks_go_by_their_name_and_their_groups_with_them(apply: Callable[..., sc.Result]) -> None:
    dense = _GRAPHS["residual"]()
    done = apply(dense, {"a2": False, "b2": [True], "a1.weight:0": np.zeros(8), "b1.weight:0": np.arange(8) > 1})
    check_same(done.graph, silenced(masked(dense, {"b1.weight:0": np.arange(8) > 1}), ["a2"]))
    assert "a1.weight" not in [value.name for value in done.graph.constants()]
    assert done.manifest.dropped == ["a2"] and done.manifest.exact
    check_same(sc.replay(done.manifest, dense), done.graph)


@pytest.mark.parametrize(("name", "block"), [("residual", "b2"), ("attention", "matmul_2")])
def test_the_gate_of_a_block_that_stays_is_multiplied_in(
    apply: Callable[..., sc.Result], name: str, block: str
) -> None:
    dense = _GRAPHS[name]()
    done = apply(dense, {block: 0.625})
    check_same(done.graph, gated(dense, block, 0.625))
    assert len(done.graph.ops()) == len(dense.ops())


def test_the_gate_of_a_block_takes_the_bias_behind_its_product(apply: Callable[..., sc.Result]) -> None:
    net = Net("mlp")
    x = net.op("Relu", net.op("MatMul", net.input("x", 2, 5, 6), net.weight("stem", 6, 6)))
    inner = net.op("Gelu", net.op("MatMul", x, net.weight("up", 6, 12)))
    block = net.op("Add", net.op("MatMul", inner, net.weight("down", 12, 6)), net.weight("down.bias", 6), to="block")
    dense = net.done((net.op("MatMul", net.op("Add", x, block), net.weight("head", 6, 3)), (2, 5, 3)))
    done = apply(dense, {"block": 0.75})
    check_same(done.graph, gated(dense, "block", 0.75))


def test_a_ratio_is_of_all_gated_blocks(apply: Callable[..., sc.Result]) -> None:
    dense = _GRAPHS["residual"]()
    done = apply(dense, {"a2": 0.9, "b2": 0.8}, ", ratio=0.5, fold=false")
    check_same(done.graph, silenced(dense, ["b2"]))


# Elements


def test_elements_become_zeros_and_a_replay_masks_the_same(apply: Callable[..., sc.Result]) -> None:
    dense = _GRAPHS["gemm_mlp"]()
    mask = np.random.default_rng(1).random((10, 6)) < 0.5
    done = apply(dense, {"w1": mask, "w2:0": np.arange(10) != 3})
    weight = dense["w1"].const.numpy()
    np.testing.assert_array_equal(done.graph["w1"].const.numpy(), np.delete(weight * mask, 3, axis=0))
    np.testing.assert_array_equal(done.manifest.masks["w1"], np.delete(mask, 3, axis=0))
    assert done.manifest.exact
    assert str(sc.replay(done.manifest, dense)) == str(done.graph)


def test_gates_of_elements_multiply_them(apply: Callable[..., sc.Result]) -> None:
    dense, gates = _GRAPHS["gemm_mlp"](), np.random.default_rng(1).random((10, 6))
    done, weight = apply(dense, {"w1": gates}), dense["w1"].const.numpy()
    np.testing.assert_allclose(done.graph["w1"].const.numpy(), np.where(gates > 0.5, weight * gates, 0), rtol=1e-6)
    assert not done.manifest.exact
    lowest = apply(dense, {"w1": gates - 3}, ", ratio=0.25, fold=false").graph["w1"].const.numpy()
    np.testing.assert_array_equal(lowest != 0, gates > np.sort(gates.reshape(-1))[14])


@pytest.mark.parametrize("left", [7, 0])
def test_what_only_zeros_read_can_go(apply: Callable[..., sc.Result], left: int) -> None:
    dense, mask = _GRAPHS["gemm_mlp"](), np.ones((10, 3))
    mask[left:] = 0
    there = apply(dense, {"w2": mask})
    assert any(f"nothing reads {10 - left} of 10" in note for note in there.report.run.entries[0].notes)
    done = apply(dense, {"w2": mask}, ", remove=true")
    assert done.graph["w1"].const.shape == (max(left, 1), 6), "one stays"
    check_same(done.graph, there.graph)
    check_same(sc.replay(done.manifest, dense), done.graph)


# Files


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    masks = {"w1:0": np.arange(10) % 2 == 0, "w2": np.full((10, 3), 0.25, np.float32), "b": np.array(True)}
    np.savez(tmp_path / "m.npz", **masks)
    (tmp_path / "m.json").write_text(json.dumps({name: some.tolist() for name, some in masks.items()}))
    files = ["m.npz", "m.json"]
    try:
        from safetensors.numpy import save_file
    except ImportError:
        pass
    else:
        save_file(masks, tmp_path / "m.safetensors")
        files.append("m.safetensors")
    for file in files:
        read = read_masks(str(tmp_path / file))
        assert {name: some.dtype.kind for name, some in read.items()} == {"w1:0": "b", "w2": "f", "b": "b"}
        for name, some in masks.items():
            np.testing.assert_array_equal(read[name], some)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.npz", b"no zip", "no mask file"),
        ("m.json", b"{", "no mask file"),
        ("m.json", b"[1, 2]", "no object of names"),
        ("m.json", b"{}", "has no masks"),
        ("m.json", b'{"a": [1, "b"]}', "'a' is not made of numbers"),
        ("m.json", b'{"a": [[1], [1, 0]]}', "no mask file"),
        ("m.json", b'{"a": []}', "'a' is empty"),
        ("m.json", b'{"a": null}', "'a' is not made of numbers"),
        ("m.json", b'{"a": [0.5, NaN]}', r"'a' is nan at \[1\]"),
        ("m.json", b'{"a": [1], "a": [0]}', "names 'a' twice"),
        ("m.txt", b"1", "no mask file that is known"),
        ("m.safetensors", b"nothing", "no mask file|needs safetensors"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sc.SecateurError, match=said) as caught:
        read_masks(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value) and caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the masks in .*gone\.npz"):
        read_masks(str(tmp_path / "gone.npz"))


@pytest.mark.parametrize(
    ("masks", "said", "hint"),
    [
        ({"w3": [1]}, "no weight, group or block 'w3'", "did you mean"),
        ({"w1:2": [1]}, "no weight, group or block 'w1:2'", "did you mean"),
        ({"w1:0": [1, 0]}, r"shape \[2\], but the group has 10 units", "secateur groups"),
        ({"w2:0": [1, 0]}, r"shape \[2\], but the axis has 10 indices", "secateur groups"),
        ({"w1": [1, 0]}, r"shape \[2\], but the weight has shape \[10, 6\]", "secateur groups"),
        ({"w1:0": np.zeros(10)}, "its mask leaves none", "one must stay"),
        ({"w1:1": [1, 1, 1, 0, 1, 1]}, "cannot be pruned: 'x' is an input", "leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(apply: Callable[..., sc.Result], masks: Masks, said: str, hint: str) -> None:
    dense = _GRAPHS["gemm_mlp"]()
    before = str(dense)
    with pytest.raises(RefusedError, match=said) as caught:
        apply(dense, masks)
    assert hint in str(caught.value.hint)
    assert str(dense) == before


def test_a_mask_that_hides_nothing_changes_nothing(apply: Callable[..., sc.Result]) -> None:
    dense = _GRAPHS["residual"]()
    done = apply(dense, {"stem.weight:0": np.ones(6), "a1.weight:0": np.ones(8), "a2": True, "stem.bias": np.ones(6)})
    assert str(done.graph) == str(dense) and done.report.run.rewrites == 0


@pytest.mark.parametrize("options", ["ratio=1.0", "threshold=nan", "repair=magic", "damping=-1"])
def test_options_are_checked(options: str) -> None:
    with pytest.raises(sc.SecateurError):
        sc.parse_pipeline(f"apply-masks{{{options}}}")
