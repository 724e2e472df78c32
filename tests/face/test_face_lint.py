"""`lint` needs no TensorRT, gives an exit code, a reason and a remedy; `build` says first what lint found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tensorrt_models as models
from helpers.face_models import Cli, make_graph
from helpers.tensorrt_constructs import CONSTRUCTS
from onnx import TensorProto

import secateur as sc
from secateur.backends.tensorrt.errors import TargetError


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    return models.save(tmp_path / "refused.onnx", CONSTRUCTS["NonZero"].make())


def test_a_clean_model_exits_with_0(cli: Cli, model: Path) -> None:
    ran = cli("lint", model, "--target", "tensorrt-rtx,8.9", "--shape", "x=4x3x8x8")
    assert (ran.code, ran.err) == (0, "")
    assert "none" in ran.out


def test_sizes_that_are_missing_are_noted_and_do_no_harm(cli: Cli, model: Path) -> None:
    ran = cli("lint", model)
    assert ran.code == 0
    assert "no fixed size" in ran.out
    assert "--shape" in ran.out


def test_a_refusal_exits_with_1_and_names_node_reason_and_remedy(cli: Cli, refused: Path) -> None:
    ran = cli("lint", refused, "--target", "tensorrt-rtx,8.9")
    assert ran.code == 1
    for word in ("refused", "NonZero_0", "plugin", "What to do", "outside of the engine"):
        assert word in ran.out


def test_json_is_one_document(cli: Cli, refused: Path) -> None:
    ran = cli("lint", refused, "--json")
    assert ran.code == 1
    assert ran.json["clean"] is False
    (finding,) = ran.json["findings"]
    assert finding["severity"] == "refused"
    assert finding["node"] == "NonZero 'NonZero_0'"
    assert {"reason", "remedy", "source", "value", "inside"} < finding.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "tensorflow"), "no package 'tensorflow'"),
        (("--target", "tensorrt-rtx,ampere"), "'ampere' is no compute capability"),
        (("--shape", "x"), "cannot read the shape"),
    ],
)
def test_what_cannot_be_read_says_so(cli: Cli, model: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = cli("lint", model, *arguments)
    assert ran.code == (1 if "shape" in words else 4)
    assert words in ran.err
    assert "hint: " in ran.err


def test_values_of_a_shape_are_no_sizes(tmp_path: Path) -> None:
    path = models.save(tmp_path / "reshape.onnx", models.reshape())
    assert sc.lint(path, shapes={"shape": "2x6,4x6,8x6"}).is_clean
    (finding,) = sc.lint(path, shapes={"x": "5x6"}).findings
    assert finding.value == "x"


def test_garbage_is_no_model(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"hello world")
    ran = cli("lint", tmp_path / "text.onnx")
    assert ran.code == 1
    assert "no ONNX model" in ran.err


def test_from_python_a_graph_is_as_good_as_a_file(model: Path) -> None:
    report = sc.lint(make_graph(), target="tensorrt-rtx,8.9", shapes={"x": (4, 3, 8, 8)})
    assert report.is_clean
    assert report.findings == sc.lint(model, target="tensorrt-rtx,8.9", shapes={"x": (4, 3, 8, 8)}).findings
    with pytest.raises(TargetError):
        sc.lint(model, target="8.9")


def test_lint_works_where_tensorrt_is_not_installed(refused: Path) -> None:
    code = f"""
import sys
for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "onnxruntime", "torch"):
    sys.modules[name] = None
import secateur as sc
print(sc.lint({str(refused)!r}, target="tensorrt-rtx,8.9").to_json())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'severity': 'refused'" in ran.stdout


def test_the_same_findings_for_the_same_model(refused: Path) -> None:
    first, second = (json.dumps(sc.lint(refused).to_json()) for _ in range(2))
    assert first == second


def test_build_says_first_what_lint_found_and_goes_on(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = models.save(tmp_path / "quantized.onnx", CONSTRUCTS["no zero point"].make())
    ran = cli("build", path, "-o", tmp_path / "out.engine", "--compute-capability", "8.9")
    assert ran.code == 0
    assert "lint: changed silently: QuantizeLinear" in ran.err
    assert (tmp_path / "out.engine").exists()


def test_an_op_in_a_body_is_found_with_where_it_lies(tmp_path: Path) -> None:
    from onnx import helper

    def branch(op_type: str, output: str) -> object:
        node = helper.make_node(op_type, ["x"], [output], name=op_type.lower())
        return helper.make_graph([node], op_type, [], [models.value(output, TensorProto.INT64, None)])

    bodies = {"then_branch": branch("NonZero", "a"), "else_branch": branch("Shape", "b")}
    node = helper.make_node("If", ["c"], ["y"], name="choice", **bodies)
    inputs = [models.value("x", models.FLOAT, [2, 3]), models.value("c", TensorProto.BOOL, [])]
    proto = models.model([node], inputs, [models.value("y", TensorProto.INT64, None)])
    report = sc.lint(models.save(tmp_path / "if.onnx", proto))
    found = {one.node: one.inside for one in report.findings}
    assert found["NonZero 'nonzero'"] == ("If 'choice'",)


def test_types_are_checked_for_every_target_that_is_named(tmp_path: Path) -> None:
    path = models.save(tmp_path / "model.onnx", models.float8_matmul())
    assert sc.lint(path).is_clean
    assert sc.lint(path, target="tensorrt-rtx,8.9,12.0").is_clean
    (finding,) = sc.lint(path, target="tensorrt-rtx,8.0,8.9").findings
    assert "8.0" in finding.reason
    assert "8.9" in finding.remedy
