import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import tensorrt_models as models
from helpers.tensorrt_models import FLOAT, INT64, value
from onnx import TensorProto, helper, numpy_helper

from secateur.backends.tensorrt import BuildFailed, BuildOptions, TargetError, UnsupportedModel, build, supports
from secateur.ir.errors import BackendError, ModelError

pytest.importorskip("tensorrt_rtx")


def options(*targets: str) -> BuildOptions:
    return BuildOptions(flavor="tensorrt-rtx", compute_capabilities=targets)


SM89 = options("8.9")


@pytest.fixture
def refused(tmp_path):
    """Builds a model that must be refused; returns the error, after making sure that only the model is left."""

    def run(proto, error=UnsupportedModel, options=SM89):
        path = models.save(tmp_path / "model.onnx", proto)
        with pytest.raises(error) as caught:
            build(path, tmp_path / "out.engine", options)
        assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
        return caught.value

    return run


def test_nonzero_is_named(refused):
    error = refused(models.single("NonZero", [value("y", INT64, [2, None])], name="pick"))
    assert [(refusal.op_type, refusal.node) for refusal in error.refusals] == [("NonZero", "pick")]
    assert "NonZero pick" in str(error)
    assert "plugin" in str(error)
    assert error.log


def test_every_unknown_operator_is_named_at_once(refused):
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Grob", ["x"], ["c"], domain="acme"),
        helper.make_node("DynamicQuantizeLinear", ["b"], ["d", "e", "f"], name="third"),
    ]
    outputs = [value(name, kind, None) for name, kind in (("c", FLOAT), ("d", TensorProto.UINT8))]
    proto = models.model(nodes, [value("x", FLOAT, [2, 3])], outputs, domains=["acme"])
    error = refused(proto)
    found = [(refusal.op_type, refusal.node) for refusal in error.refusals]
    assert found == [("Frobnicate", "first"), ("Grob", "-> c"), ("DynamicQuantizeLinear", "third")]
    assert all(refusal.reason not in ("", "false") for refusal in error.refusals)


def test_operator_inside_a_branch_says_where(refused):
    def branch(op_type, output, domain=""):
        node = helper.make_node(op_type, ["x"], [output], name=op_type.lower(), domain=domain)
        return helper.make_graph([node], f"{op_type}s", [], [value(output, FLOAT, [2, 3])])

    branches = branch("Frobnicate", "a", "acme"), branch("Relu", "b")
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branches[0], else_branch=branches[1])
    inputs = [value("x", FLOAT, [2, 3]), value("c", TensorProto.BOOL, [])]
    error = refused(models.model([node], inputs, [value("y", FLOAT, [2, 3])], domains=["acme"]))
    assert error.refusals[0].node == "frobnicate"
    assert any("choice" in place for place in error.refusals[0].inside)


def test_operator_that_only_the_builder_refuses_is_named(refused):
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"], name="suppress")
    inputs = [value("boxes", FLOAT, [1, 3, 4]), value("scores", FLOAT, [1, 2, 3])]
    most = numpy_helper.from_array(np.array([2], np.int64), "most")
    error = refused(models.model([node], inputs, [value("y", INT64, [None, 3])], [most]))
    assert [(refusal.code, refusal.node) for refusal in error.refusals] == [("NO_KERNEL", "suppress")]


def test_mixed_types_name_the_node_without_driver_noise(refused):
    proto = models.conv()
    weight = numpy_helper.to_array(proto.graph.initializer[0]).astype(np.float16)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    error = refused(proto)
    assert "Conv conv0" in str(error)
    assert "same type" in str(error)
    assert "cuda" not in str(error).lower()
    assert "/_src" not in str(error)


@pytest.mark.parametrize("zero", [np.array(3, np.int8), np.array(0, np.uint8), np.array(128, np.uint8)])
def test_asymmetric_and_unsigned_quantization_is_refused(refused, zero):
    error = refused(models.quantized_conv(zero))
    assert ("QuantizeLinear", "quantize") in [(refusal.op_type, refusal.node) for refusal in error.refusals]


def test_initializer_of_a_refused_type_is_named(refused):
    node = helper.make_node("Cast", ["w"], ["d"], to=FLOAT)
    add = helper.make_node("Add", ["x", "d"], ["y"])
    weight = numpy_helper.from_array(np.ones(3, np.int16), "w")
    error = refused(models.model([node, add], [value("x", FLOAT, [2, 3])], [value("y", FLOAT, [2, 3])], [weight]))
    assert ("initializer", "w") in [(refusal.op_type, refusal.node) for refusal in error.refusals]


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x08\x0a", bytes(1000)])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        build(path, tmp_path / "out.engine", SM89)
    with pytest.raises(ModelError):
        supports(path, "tensorrt-rtx")


def test_model_cut_short_is_refused(tmp_path):
    whole = models.conv().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(1, len(whole), len(whole) // 12):
        path.write_bytes(whole[:length])
        with pytest.raises((ModelError, BackendError)):
            build(path, tmp_path / "out.engine", SM89)
        assert not (tmp_path / "out.engine").exists()


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        build(tmp_path / "none.onnx", tmp_path / "out.engine", SM89)


def test_external_data_missing_or_cut_short_is_named(tmp_path):
    path, data = tmp_path / "model.onnx", tmp_path / "data.bin"
    onnx.save_model(models.conv(), path, save_as_external_data=True, location="data.bin", size_threshold=0)
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"data\.bin"):
        build(path, tmp_path / "out.engine", SM89)
    data.unlink()
    with pytest.raises(ModelError, match=r"data\.bin") as caught:
        build(path, tmp_path / "out.engine", SM89)
    assert "beside" in (caught.value.hint or "")


def test_unknown_compute_capability_lists_the_known(refused):
    error = refused(models.conv(), TargetError, options("9.0"))
    assert "'9.0'" in str(error)
    assert "8.9" in str(error.hint)


@pytest.mark.parametrize(
    ("make", "targets", "words"),
    [
        (lambda: models.conv(ml_dtypes.bfloat16), ("7.5",), ("bfloat16", "7.5", "8.0 or newer")),
        (models.float8_matmul, ("8.0", "8.6", "8.9"), ("float8", "8.0, 8.6;", "8.9 or newer")),
        (models.matmul, ("7.5",), ("'matmul'", "7.5", "FP32")),
    ],
)
def test_type_without_hardware_names_type_and_target(refused, make, targets, words):
    error = refused(make(), TargetError, options(*targets))
    for word in words:
        assert word.rstrip(";") in str(error)


def test_too_little_workspace_says_so(refused):
    tight = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), workspace_bytes=1 << 20)
    error = refused(models.conv(), BuildFailed, tight)
    assert "workspace" in str(error)
    assert "workspace" in str(error.hint)


def test_supports_answers_without_building(tmp_path):
    good = models.save(tmp_path / "good.onnx", models.conv())
    bad = models.save(tmp_path / "bad.onnx", models.single("NonZero", [value("y", INT64, [2, None])]))
    assert supports(good, "tensorrt-rtx") == []
    assert [refusal.op_type for refusal in supports(bad, "tensorrt-rtx")] == ["NonZero"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.onnx", "good.onnx"]
