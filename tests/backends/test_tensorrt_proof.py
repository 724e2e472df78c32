"""What is promised of an engine is proven or the build fails: number formats by kernel, 2:4 weight by weight."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import tensorrt_models as models
from helpers.tensorrt_constructs import CONSTRUCTS, quantized
from helpers.tensorrt_fake import Full
from onnx import TensorProto, helper, numpy_helper

import secateur as sc
from secateur.backends.tensorrt import (
    UNKNOWN,
    BuildOptions,
    BuildReport,
    PrecisionNotHonoured,
    SparsityNotHonoured,
    build,
)
from secateur.backends.tensorrt.layers import Layer, LayerTensor
from secateur.backends.tensorrt.quantized import Quantized, precisions
from secateur.ir.sparsity_scheme import SparsityScheme

QUANTIZED = [one for one in CONSTRUCTS.values() if one.verdict in ("taken", "changed") and one.runs]


def rtx(**more: object) -> BuildOptions:
    pytest.importorskip("tensorrt_rtx")
    more.setdefault("compute_capabilities", ("8.9",))
    return BuildOptions(flavor="tensorrt-rtx", optimization_level=0, **more)


def made(folder: Path, proto: onnx.ModelProto, options: BuildOptions) -> BuildReport:
    return build(models.save(folder / "model.onnx", proto), folder / "out.engine", options)


# ---- number formats -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("construct", QUANTIZED, ids=lambda one: one.name)
def test_quantized_nodes_run_as_quantized_or_the_build_fails(construct, tmp_path):
    options = rtx(compute_capabilities=construct.targets, require_precision="as-quantized")
    if construct.runs == "int8":
        report = made(tmp_path, construct.make(), options)
        assert report.precision
        assert all(one.is_honoured for one in report.precision)
        return
    model = construct.make()
    has_halves = any(one.data_type == onnx.TensorProto.FLOAT16 for one in model.graph.initializer)
    with pytest.raises(PrecisionNotHonoured) as caught:
        made(tmp_path, model, options)
    [node] = caught.value.nodes
    assert node.wanted in ("int8", "fp8")
    assert node.found == ("fp16" if has_halves else "fp32")
    for word in (node.node, f"wanted {node.wanted}", f"found {node.found}", "reads"):
        assert word in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
@pytest.mark.parametrize("how", [{"axis": 0}, {"axis": 0, "scale": np.float16}, {"axis": 1, "channels": True}])
def test_scales_along_the_sum_are_found_although_the_kernel_reads_integers(op_type, how, tmp_path):
    report = made(tmp_path, quantized(op_type, **how), rtx())
    [kernel] = [layer for layer in report.layers if layer.contracts]
    assert "Int8" in kernel.reads
    [node] = report.precision
    assert node.found == ("fp16" if "scale" in how else "fp32")
    assert report.quantized_in_float == (node.node,)


def attention() -> onnx.ModelProto:
    """Attention whose operands are all quantized to FP8: one fused kernel, which is no product by its kind."""
    constants = [
        helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
        numpy_helper.from_array(np.array(0.05, np.float16), "s"),
        numpy_helper.from_array(np.array(0.125, np.float16), "factor"),
    ]
    nodes = []

    def narrow(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}q"], name=f"q_{name}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}q", "s", "z"], [f"{name}d"], name=f"d_{name}"))
        return f"{name}d"

    query, key, value = map(narrow, ("Q", "K", "V"))
    nodes.append(helper.make_node("Transpose", [key], ["kt"], perm=[0, 1, 3, 2], name="transpose"))
    nodes.append(helper.make_node("MatMul", [query, "kt"], ["a"], name="scores"))
    nodes.append(helper.make_node("Mul", ["a", "factor"], ["f"], name="scale"))
    nodes.append(helper.make_node("Softmax", ["f"], ["p"], name="softmax"))
    nodes.append(helper.make_node("MatMul", [narrow("p"), value], ["y"], name="mix"))
    inputs = [models.value(name, TensorProto.FLOAT16, [1, 4, 128, 64]) for name in "QKV"]
    return models.model(nodes, inputs, [models.value("y", TensorProto.FLOAT16, [1, 4, 128, 64])], constants, opset=19)


def test_attention_that_is_one_fused_kernel_counts_as_narrow(tmp_path):
    report = made(tmp_path, attention(), rtx(require_precision="fp8"))
    assert {one.node: one.found for one in report.precision} == {"scores": "fp8", "mix": "fp8"}
    assert not any(layer.contracts for layer in report.layers)


def fused_projection(scales: int) -> onnx.ModelProto:
    """x [33, 64] times an int8 weight [64, 192] with so many scales, split into three, heads apart: as in GPT-2."""
    constants = {
        "w": np.random.default_rng(0).integers(-127, 128, (64, 192)).astype(np.int8),
        "ws": np.linspace(0.01, 0.03, scales, dtype=np.float32) if scales > 1 else np.array(0.02, np.float32),
        "xs": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
        "rows": np.array([3, 11, 192]),
        "heads": np.array([3, 11, 4, -1]),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
        helper.make_node("MatMul", ["d", "wd"], ["y"], name="projection"),
        helper.make_node("Reshape", ["y", "rows"], ["r"]),
        helper.make_node("Split", ["r"], ["s0", "s1", "s2"], axis=2, num_outputs=3),
    ]
    for index in range(3):
        nodes.append(helper.make_node("Reshape", [f"s{index}", "heads"], [f"h{index}"]))
        nodes.append(helper.make_node("Transpose", [f"h{index}"], [f"y{index}"], perm=[0, 2, 1, 3]))
    outputs = [models.value(f"y{index}", models.FLOAT, None) for index in range(3)]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return models.model(nodes, [models.value("x", models.FLOAT, [33, 64])], outputs, held, opset=18)


@pytest.mark.parametrize(("scales", "found"), [(1, "int8"), (192, "fp32")])
def test_a_fused_projection_is_dequantized_where_each_channel_has_a_scale(scales, found, tmp_path):
    [node] = made(tmp_path, fused_projection(scales), rtx()).precision
    assert (node.node, node.wanted, node.found) == ("projection", "int8", found)


def test_nodes_that_share_a_name_are_each_proven(tmp_path):
    proto = quantized("MatMul", axis=1)
    codes = [one.name for one in proto.graph.initializer]
    assert {"w", "ws", "xs", "z"} <= set(codes)
    more = [
        helper.make_node("QuantizeLinear", ["y", "xs", "z"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "xs", "z"], ["d2"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["w2"], axis=0),
        helper.make_node("MatMul", ["d2", "w2"], ["y2"], name=proto.graph.node[-1].name),
    ]
    proto.graph.node.extend(more)
    proto.graph.output[0].name = "y2"
    report = made(tmp_path, proto, rtx())
    [node] = report.precision
    assert (node.count, node.wanted, node.found) == (2, "int8", "fp32")
    assert "2 nodes of this name" in str(node)


def test_a_type_by_name_is_required_of_quantized_nodes_and_that_there_are_some(tmp_path):
    assert made(tmp_path, models.quantized_conv(), rtx(require_precision="int8")).quantized_in_float == ()
    with pytest.raises(PrecisionNotHonoured, match="conv: wanted fp8, found int8"):
        made(tmp_path, models.quantized_conv(), rtx(require_precision="fp8"))
    with pytest.raises(PrecisionNotHonoured, match="no node of the model has both operands quantized"):
        made(tmp_path, models.conv(), rtx(require_precision="int8"))
    assert made(tmp_path, models.conv(), rtx(require_precision="as-quantized")).precision == ()


def test_without_a_layer_table_nothing_is_proven(tmp_path, monkeypatch):
    monkeypatch.setattr("secateur.backends.tensorrt.engine.layers_from_log", lambda rows: ((), "layers unknown"))
    with pytest.raises(PrecisionNotHonoured, match="cannot be proven"):
        made(tmp_path, models.quantized_conv(), rtx(require_precision="as-quantized"))
    report = made(tmp_path, models.quantized_conv(), rtx())
    assert report.precision is report.quantized_in_float is None


def test_unknown_precision():
    with pytest.raises(ValueError, match="require_precision must be one of as-quantized, int8"):
        BuildOptions(require_precision="int9")


def kernel(kind: str, reads: str, *constants: tuple[str, tuple[int, ...]]) -> Layer:
    held = tuple(LayerTensor("c", dtype, shape) for dtype, shape in constants)
    out = (LayerTensor("y", "Half", (16, 64)),)
    return Layer("k", kind, (LayerTensor("x", reads, (16, 64)),), held, out, "", ("node",))


@pytest.mark.parametrize(
    ("kernels", "found"),
    [
        ([kernel("gemm", "Int8"), kernel("kgen", "Float", ("Float", (1, 64)))], "int8"),
        ([kernel("gemm", "Half"), kernel("kgen", "Int8")], "fp16"),  # dequantized before it
        ([kernel("runtime_fusion", "Int8", ("Float", (64, 1)))], "fp16"),
        ([kernel("kgen", "FP8", ("Float", (1,)))], "fp8"),
        ([kernel("kgen", "FP8", ("Float", (64, 1)))], "fp16"),
        ([kernel("correlation", "FP4E2M1")], "fp4"),
        ([], None),
    ],
)
def test_the_type_that_is_multiplied(kernels, found):
    [one] = precisions([Quantized("node", "int8")], kernels)
    assert one.found == found


# ---- sparsity -------------------------------------------------------------------------------------------------------


def halved(weight: np.ndarray, axis: int = 0) -> np.ndarray:
    """Two of any four neighbours along an axis become zero."""
    weight = np.moveaxis(weight.copy(), axis, -1)
    weight.reshape(*weight.shape[:-1], -1, 4)[..., 1::2] = 0
    return np.moveaxis(weight, -1, axis)


def sparse_matmul(axis: int | None = 0, size: int = 64, dtype: object = np.float16) -> onnx.ModelProto:
    """x [16, size] times a 2:4 weight; None: dense."""
    weight = models.weights(size, size, dtype=dtype)
    weight = weight if axis is None else halved(weight, axis)
    kind = models.element_type(dtype)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    shape = [16, size]
    return models.model(
        [node],
        [models.value("x", kind, shape)],
        [models.value("y", kind, shape)],
        [numpy_helper.from_array(weight, "w")],
    )


def test_every_weight_has_a_verdict_and_no_claim_is_made(tmp_path):
    report = made(tmp_path, sparse_matmul(), rtx(require_sparse=True))
    [weight] = report.weights
    assert (weight.node, weight.weight, weight.axis, weight.size) == ("matmul", "w", 0, 64)
    assert (weight.is_sparse, weight.pattern, weight.format) == (True, "2:4", "fp16")
    assert (weight.aligned, weight.eligible, weight.reason) == (True, True, None)
    assert weight.tactic == "unknown"
    assert "SPARSE_WEIGHTS" in report.flags
    assert any(UNKNOWN in note for note in report.notes)
    quiet = made(tmp_path, sparse_matmul(), rtx())
    assert any("not asked for" in note for note in quiet.notes)


@pytest.mark.parametrize(
    ("proto", "targets", "words"),
    [
        (sparse_matmul(None), ("8.9",), "none of its 1 weights is 2:4"),
        (sparse_matmul(1), ("8.9",), "none of its 1 weights is 2:4"),
        (sparse_matmul(), ("7.5", "8.9"), "no sparse tensor cores"),
        (sparse_matmul(size=24), ("8.9",), "24 inputs are no multiple of 16"),
        (sparse_matmul(dtype=np.float32), ("8.9",), "fp32 products do not run on tensor cores"),
    ],
)
def test_sparse_weights_that_are_required_and_of_no_use_fail_the_build(proto, targets, words, tmp_path):
    with pytest.raises(SparsityNotHonoured, match=words):
        made(tmp_path, proto, rtx(compute_capabilities=targets, require_sparse=True))
    assert not (tmp_path / "out.engine").exists()


def test_sparsity_is_seen_through_q_and_dq(tmp_path):
    proto = quantized("MatMul", axis=1)
    [weight] = [one for one in proto.graph.initializer if one.name == "w"]
    weight.CopyFrom(numpy_helper.from_array(halved(numpy_helper.to_array(weight)), "w"))
    report = made(tmp_path, proto, rtx(require_sparse=True, require_precision="int8"))
    [found] = report.weights
    assert (found.is_sparse, found.quantized, found.format, found.eligible) == (True, True, "int8", True)


def test_a_promise_that_is_not_kept_fails_the_build(tmp_path):
    graph = sc.load(models.save(tmp_path / "plain.onnx", sparse_matmul()))
    SparsityScheme(2, 4, 0).mark(graph["w"])
    graph.save(tmp_path / "kept.onnx")
    report = build(tmp_path / "kept.onnx", tmp_path / "kept.engine", rtx(require_sparse=True))
    assert (report.weights[0].promised, report.weights[0].kept) == ("2:4 axis 0", True)
    SparsityScheme(2, 4, 1).mark(graph["w"])
    graph.save(tmp_path / "broken.onnx")
    with pytest.raises(SparsityNotHonoured, match=r"marked as sparse and are not: w \(promises 2:4 axis 1\)"):
        build(tmp_path / "broken.onnx", tmp_path / "broken.engine", rtx(require_sparse=True))
    told = build(tmp_path / "broken.onnx", tmp_path / "broken.engine", rtx())
    assert any("marked as sparse, and not: w" in note for note in told.notes)


class TestWhatFullTensorRTSays:
    """`tensorrt` needs a GPU: here is what its log is read as, in its words."""

    def run(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fake: Full, **more: object) -> BuildReport:
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
        return made(folder, sparse_matmul(), BuildOptions(flavor="tensorrt", require_sparse=True, **more))

    def test_layers_that_were_chosen(self, tmp_path, monkeypatch):
        lines = (
            "(Sparsity) Layers eligible for sparse math: matmul + relu",
            "(Sparsity) TRT inference plan picked sparse implementation for layers: matmul + relu",
        )
        fake = Full(lines=lines)
        report = self.run(tmp_path, monkeypatch, fake)
        assert report.weights[0].tactic == "sparse"
        assert report.sparsity_lines == lines
        assert fake.flags == ["SPARSE_WEIGHTS"]
        assert not any(UNKNOWN in note for note in report.notes)

    @pytest.mark.parametrize("word", ["TRT inference plan picked sparse implementation for layers:", "Chose 0 layers:"])
    def test_eligible_layers_that_were_not_chosen_fail_the_build(self, word, tmp_path, monkeypatch):
        with pytest.raises(SparsityNotHonoured, match=r"computes 1 layers densely .*: matmul"):
            self.run(tmp_path, monkeypatch, Full(lines=(f"(Sparsity) {word}",)))

    @pytest.mark.parametrize(
        ("tactic", "found"), [("sm80_xmma_gemm_sparse_f16", "sparse"), ("__myelin_CASK_STUB", "unknown")]
    )
    def test_names_of_tactics(self, tactic, found, tmp_path, monkeypatch):
        assert self.run(tmp_path, monkeypatch, Full(tactic=tactic)).weights[0].tactic == found


# ---- metadata -------------------------------------------------------------------------------------------------------


def test_metadata_lies_beside_the_engine_and_is_the_same_for_the_same_build(tmp_path):
    options = rtx(require_precision="as-quantized", compute_capabilities=("8.9", "12.0"))
    report = made(tmp_path, models.quantized_conv(), options)
    beside = tmp_path / "out.engine.json"
    first = beside.read_bytes()
    found = json.loads(first)
    assert found["engine"] == {"file": "out.engine", "bytes": report.bytes, "sha256": report.sha256}
    assert found["model"]["file"] == "model.onnx"
    assert found["versions"]["onnx_opsets"] == {"ai.onnx": 17}
    assert found["versions"]["tensorrt-rtx"] == report.version
    assert found["targets"] == ["8.9", "12.0"]
    assert found["kernels"]["correlation Int8"] == 1
    assert [one["found"] for one in found["precision"]] == ["int8"]
    assert found["options"]["require_precision"] == "as-quantized"
    made(tmp_path, models.quantized_conv(), options)
    assert beside.read_bytes() == first


def test_external_data_counts_to_the_model(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save_model(models.conv(), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    build(path, tmp_path / "out.engine", rtx())
    files = json.loads((tmp_path / "out.engine.json").read_text())["model"]["files"]
    assert list(files) == ["model.onnx", "data.bin"]
