"""What `build` says of an engine: proofs, and what sparse weights can be worth at most, without a claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tensorrt_models as models
from helpers.face_models import Cli
from onnx import numpy_helper

import secateur as sc
from secateur.backends.tensorrt import UNKNOWN, PrecisionNotHonoured

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """x [16, 256] times a 2:4 weight [256, 256], in half precision."""
    weight = models.weights(256, 256, dtype=np.float16)
    weight.reshape(64, 4, 256)[:, 1::2] = 0
    node = models.helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    ends = [models.value(name, models.element_type(np.float16), ["N", 256]) for name in "xy"]
    return models.save(
        tmp_path / "sparse.onnx", models.model([node], ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    )


def test_sparse_engines_say_what_is_known_and_what_it_is_worth_at_most(cli: Cli, sparse: Path, tmp_path: Path) -> None:
    where = ("-o", tmp_path / "e", "--shape", "x=1x256,4096x256,8192x256", "--compute-capability", "8.0,8.9")
    ran = cli("build", sparse, *where, "--require-sparse", "--json")
    assert ran.code == 0, ran.out
    found = ran.json
    assert [weight["tactic"] for weight in found["weights"]] == ["unknown"]
    assert any(UNKNOWN in note for note in found["notes"])
    assert len(found["payoff"]) == 2
    assert all("at most" in line and "nothing was measured" in line for line in found["payoff"])
    gains = [float(line.split("at most ")[1].split()[0]) for line in found["payoff"]]
    assert all(1 <= gain <= 2 for gain in gains)
    shown = cli("build", sparse, *where).out
    assert "1 of 1, 1 eligible for sparse kernels" in shown
    assert "not asked for" in shown


def test_dense_engines_say_nothing_of_it(model: Path, tmp_path: Path) -> None:
    report = sc.build(model, tmp_path / "e", compute_capability="8.9", shapes={"x": (2, 3, 8, 8)})
    assert report.payoff == ()
    assert not any("2:4" in note for note in report.build.notes)


def test_codes_of_promises_that_are_not_kept(cli: Cli, model: Path, tmp_path: Path) -> None:
    common = ("build", model, "-o", tmp_path / "e", "--shape", "x=1x3x8x8", "--optimization-level", "0")
    ran = cli(*common, "--require-precision", "int8")
    assert (ran.code, "int8 is required" in ran.err) == (5, True)
    ran = cli(*common, "--require-sparse", "--json")
    assert (ran.code, set(ran.json)) == (5, {"error", "hint"})
    ran = cli(*common, "--refit")
    assert (ran.code, "GPU" in ran.err) == (3, True)
    ran = cli(*common, "--timing-cache", tmp_path / "cache")
    assert (ran.code, "no timing cache" in ran.err) == (3, True)
    ran = cli(*common, "--plugin", tmp_path / "none.so")
    assert (ran.code, "none.so" in ran.err) == (4, True)
    ran = cli(*common, "--workspace", "much")
    assert (ran.code, "no amount" in ran.err) == (1, True)
    assert not (tmp_path / "e").exists()


def test_quantized_graphs_prove_their_format(graph: sc.Graph, calib: Path, tmp_path: Path) -> None:
    small = sc.compress(graph, "quantize{format=int8}", data=calib).graph
    shapes = {"x": (2, 3, 8, 8)}
    report = sc.build(small, tmp_path / "e", compute_capability="8.9", shapes=shapes, require_precision="as-quantized")
    assert report.build.precision
    assert "run as quantized" in str(report)
    with pytest.raises(PrecisionNotHonoured, match="wanted fp8, found int8"):
        sc.build(small, tmp_path / "e", compute_capability="8.9", shapes=shapes, require_precision="fp8")


def test_several_profiles(graph: sc.Graph, tmp_path: Path) -> None:
    profiles = [{"x": (1, 3, 8, 8)}, {"x": "2x3x8x8,4x3x8x8,8x3x8x8"}]
    report = sc.build(graph, tmp_path / "e", compute_capability="8.9", shapes=profiles)
    assert len(report.build.profiles) == 2


def test_unknown_arguments(graph: sc.Graph, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'requires_sparse'"):
        sc.build(graph, tmp_path / "e", requires_sparse=True)  # type: ignore[call-arg]
