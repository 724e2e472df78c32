import hashlib
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import tensorrt_models as models

from secateur.backends.tensorrt import BuildOptions, BuildReport, Profile, build, kernels_by_node, parse_shape

pytest.importorskip("tensorrt_rtx")

RTX = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",))


def engine(folder: Path, proto: onnx.ModelProto, options: BuildOptions = RTX, name: str = "out.engine") -> BuildReport:
    return build(models.save(folder / "model.onnx", proto), folder / name, options)


def test_import_loads_no_tensorrt():
    code = "import sys, secateur.backends.tensorrt; sys.exit(bool({'tensorrt', 'tensorrt_rtx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("dtype", "word"), [(np.float32, "Float"), (np.float16, "Half"), (ml_dtypes.bfloat16, "BFloat16")]
)
@pytest.mark.parametrize(("make", "node"), [(models.conv, "conv0"), (models.matmul, "matmul")])
def test_kernels_read_the_type_of_the_model(tmp_path, make, node, dtype, word):
    report = engine(tmp_path, make(dtype))
    kernels = [kernel for kernel in kernels_by_node(report.layers)[node] if kernel.contracts]
    assert [kernel.reads for kernel in kernels] == [(word,)]
    assert report.quantized_in_float == ()


def test_report_describes_the_file(tmp_path):
    report = engine(tmp_path, models.conv())
    written = (tmp_path / "out.engine").read_bytes()
    assert report.bytes == len(written) > 0
    assert report.sha256 == hashlib.sha256(written).hexdigest()
    assert (report.flavor, report.targets, report.warnings) == ("tensorrt-rtx", ("8.9",), ())
    assert report.memory["weights"] >= 8 * 8 * 9 * 4
    assert report.memory["activation"] > 0
    assert report.seconds > 0


def test_json_round_trips_through_text(tmp_path):
    shapes = parse_shape("x=1x8x16x16,2x8x16x16,4x8x16x16")
    options = BuildOptions(flavor="tensorrt-rtx", profiles=(Profile((shapes,)),))
    plain = engine(tmp_path, models.conv(batch="N"), options).to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["profiles"] == [{"x": {"min": [1, 8, 16, 16], "opt": [2, 8, 16, 16], "max": [4, 8, 16, 16]}}]
    assert plain["engine"] == str(tmp_path / "out.engine")
    assert "conv0" in [node for layer in plain["layers"] for node in layer["onnx_nodes"]]


def test_same_model_gives_the_same_bytes_streamed_or_not(tmp_path):
    first = engine(tmp_path, models.conv(layers=3), name="first")
    second = engine(tmp_path, models.conv(layers=3), name="second")
    held = engine(
        tmp_path,
        models.conv(layers=3),
        BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), stream_to_file=False),
        name="held",
    )
    assert first.sha256 == second.sha256 == held.sha256
    assert (tmp_path / "first").read_bytes() == (tmp_path / "held").read_bytes()


def test_quantized_conv_reads_int8(tmp_path):
    report = engine(tmp_path, models.quantized_conv())
    kernels = [kernel for kernel in kernels_by_node(report.layers)["conv"] if kernel.contracts]
    assert [kernel.reads for kernel in kernels] == [("Int8",)]
    assert report.quantized_in_float == ()


def test_float8_matmul_reads_float8(tmp_path):
    report = engine(tmp_path, models.float8_matmul())
    kernels = [kernel for kernel in kernels_by_node(report.layers)["matmul"] if kernel.contracts]
    assert [kernel.reads for kernel in kernels] == [("FP8",)]
    assert report.quantized_in_float == ()


def test_quantized_node_that_runs_in_float_is_told(tmp_path):
    # TensorRT-RTX has no INT8 kernels for 7.5, and one network serves all targets.
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("7.5", "8.9"))
    report = engine(tmp_path, models.quantized_conv(), options)
    assert report.quantized_in_float == ("conv",)
    assert any("conv" in note and "7.5" in note for note in report.notes)


def test_several_targets_make_one_engine(tmp_path):
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("12.0", "8.6", "8.9"))
    report = engine(tmp_path, models.conv(np.float16), options)
    assert report.targets == ("12.0", "8.6", "8.9")
    assert report.bytes > 0


def test_without_target_the_report_says_that_nothing_was_checked(tmp_path):
    report = engine(tmp_path, models.conv(), BuildOptions(flavor="tensorrt-rtx"))
    assert any("no compute capability" in note for note in report.notes)
    assert not any("no compute capability" in note for note in engine(tmp_path, models.conv()).notes)


def test_sparse_weights_never_claim_more_than_the_builder_says(tmp_path):
    options = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), sparse_weights=True)
    report = engine(tmp_path, models.matmul(np.float16), options)
    assert any("0 of 1 weights are 2:4" in note for note in report.notes)
    assert not any("unknown" in note for note in report.notes)
    assert not any("sparse" in note for note in engine(tmp_path, models.matmul(np.float16)).notes)


def test_options_reach_the_builder(tmp_path):
    options = BuildOptions(
        flavor="tensorrt-rtx", compute_capabilities=("8.9",), workspace_bytes=1 << 30, optimization_level=0
    )
    assert engine(tmp_path, models.conv(), options).bytes > 0


def test_relative_path_with_external_data(tmp_path, monkeypatch):
    onnx.save_model(
        models.conv(), tmp_path / "model.onnx", save_as_external_data=True, location="data.bin", size_threshold=0
    )
    monkeypatch.chdir(tmp_path)
    outside = build("model.onnx", "out.engine", RTX)
    assert outside.sha256 == engine(tmp_path, models.conv(), name="inside").sha256
