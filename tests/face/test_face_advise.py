"""`secateur advise --sparsity` on real models: what it says, that JSON says the same, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli
from helpers.zoo import zoo

import secateur as sc
from secateur.ir.build import add_constant, add_input, emit


@pytest.fixture(scope="module")
def resnet() -> sc.Graph:
    return zoo("light")["light-resnet50"]()


def test_the_model_by_default(cli: Cli, model: Path) -> None:
    ran = cli("advise", "--sparsity", model, "--target", "l4")
    assert ran.code == 0 and not ran.err
    assert "1 of 4 layers can gain; end to end at most" in ran.out
    assert "x 1x3x8x8" in ran.out and "NVIDIA L4" in ran.out and "grouped" in ran.out


def test_json_says_the_same(cli: Cli, model: Path) -> None:
    found = cli("advise", model, "--sparsity", "--target", "8.9", "--batch", 2, "--json").json
    assert found["inputs"] == {"x": [2, 3, 8, 8]} and found["can_gain"] == 1
    assert 1 < found["gain"] <= found["gain_on_chip"] <= 2
    assert [layer["weight"] for layer in found["layers"] if layer["can_gain"]] == ["conv2.weight"]
    assert all(layer["gain"] == 1 for layer in found["layers"] if layer["reason"])
    total = found["other_seconds"] + sum(layer["seconds"] for layer in found["layers"])
    assert found["seconds"] == pytest.approx(total)
    sparse = found["other_seconds"] + sum(layer["sparse_seconds"] for layer in found["layers"])
    assert found["gain"] == pytest.approx(total / sparse)


def test_resnet(resnet: sc.Graph) -> None:
    """Wide 3x3 layers with few positions wait for their weights, narrow ones with many for their activations."""
    found = sc.advise_sparsity(resnet, "l4")
    by_weight = {layer.weight: layer for layer in found.found.layers}
    assert len(by_weight) == 54
    assert "3 inputs" in str(by_weight["gpu_0/conv1_w_0"].reason)
    assert by_weight["gpu_0/res5_0_branch2b_w_0"].gain > 1.6
    assert not by_weight["gpu_0/res2_0_branch2a_w_0"].can_gain
    assert sum(layer.macs for layer in found.found.layers) == sc.inspect(resnet).macs
    dense = sc.advise_sparsity(resnet, "t4", "int8")
    assert dense.found.gain == 1 and "0 of 54 layers can gain, for NVIDIA T4 (7.5) has no sparse" in dense.verdict


def test_a_sentence_encoder_by_its_batch() -> None:
    """Alone it waits for its weights, in a large batch for arithmetic: 16/9 and 2 are the limits."""
    path = zoo("real")["minilm"].path()
    for rows, bound, limit in ((1, "memory", 16 / 9), (4096, "compute", 2.0)):
        found = sc.advise_sparsity(path, "a100", shapes={"input_ids": (rows, 1)})
        wide = [layer for layer in found.found.layers if layer.shape == (384, 1536)]
        assert len(wide) == 6
        for layer in wide:
            assert (layer.rows, layer.bound) == (rows, bound)
            assert layer.gain == pytest.approx(limit, rel=0.05) and layer.gain <= limit
        assert all(layer.can_gain for layer in found.found.layers)


def test_a_quantized_model_is_seen_through(model: Path, calib: Path) -> None:
    small = sc.compress(model, "quantize", str(calib)).graph
    dense = sc.advise_sparsity(model, "l4", "int8")
    found = sc.advise_sparsity(small, "l4", "int8")
    assert [layer.shape for layer in found.found.layers] == [layer.shape for layer in dense.found.layers]
    reasons = [str(layer.reason) for layer in found.found.layers]
    assert [("multiple of 32" in reason, "grouped" in reason) for reason in reasons] == [
        (True, False),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert "10 outputs" in reasons[3]


def test_measured_times_count(cli: Cli, tmp_path: Path) -> None:
    graph = sc.Graph("one")
    weight = add_constant(graph, "w", np.ones((64, 64), np.float32))
    graph.set_interface(outputs=[emit(graph, "MatMul", [add_input(graph, "x", ("N", 64)), weight]).output])
    graph.save(tmp_path / "one.onnx")
    row = {"format": "fp16", "rows": 8, "inputs": 64, "outputs": 64, "dense": 3.0, "sparse": 2.0}
    times = tmp_path / "times.json"
    times.write_text(json.dumps({"device": "toy", "times": [row]}))
    ran = cli("advise", "--sparsity", tmp_path / "one.onnx", "--target", "l4", "--batch", 8, "--times", times)
    assert ran.code == 0 and "by these times 1.50 times as fast" in ran.out
    assert "1 of 1 layers were measured, on toy" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--target", "l4"), 2, "give --sparsity"),
        (("--sparsity",), 2, "needs a device"),
        (("--sparsity", "--target", "a1000"), 1, "did you mean a100"),
        (("--sparsity", "--target", "l4", "--format", "fp12"), 1, "there is no format 'fp12'"),
        (("--sparsity", "--target", "a100", "--format", "fp8"), 1, "has no fp8 products"),
        (("--sparsity", "--target", "l4", "--shape", "y=1x3x8x8"), 1, "no input 'y'"),
        (("--sparsity", "--target", "l4", "--shape", "x=1x4x8x8"), 1, "expected 3 on axis 1, found 4"),
        (("--sparsity", "--target", "l4", "--shape", "x"), 1, "cannot read the shape"),
        (("--sparsity", "--target", "l4", "--least", "0.5"), 1, "from 1 to 2, found 0.5"),
        (("--sparsity", "--target", "l4", "--times", "no.json"), 1, "cannot read the kernel times"),
    ],
)
def test_mistakes_are_named(cli: Cli, model: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = cli("advise", model, *arguments)
    assert ran.code == code and said in ran.err and "hint:" in ran.err and not ran.out


def test_a_bad_target_file_is_named(cli: Cli, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpu.toml"
    path.write_text('capability = "8.9"\nbandwidth = 1e11\n[peak]\nfp16 = "fast"\n')
    ran = cli("advise", "--sparsity", model, "--target", path)
    assert ran.code == 1 and "gpu.toml: expected a number for peak.fp16, found 'fast'" in ran.err


def test_unknown_assumptions_are_refused(model: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'bacth'"):
        sc.advise_sparsity(model, "l4", bacth=1)  # type: ignore[call-arg]
