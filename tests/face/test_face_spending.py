"""`secateur advise --data` and `sc.advise`: tables and JSON that say the same, on small models and a real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli
from helpers.zoo import zoo

import secateur as sc
from secateur.ir.errors import DataError, RefusedError
from secateur.passes.mix.spending import WAYS


def test_the_table(cli: Cli, model: Path, calib: Path) -> None:
    ran = cli("advise", model, "--data", calib)
    assert ran.code == 0 and not ran.err
    assert "first" in ran.out and "quantize to int8 first" in ran.out
    for word in ("2:4 FP16", "INT8", "2:4 INT8", "fc.weight", "conv2.weight", "at 8 bits", "int4 gptq"):
        assert word in ran.out
    assert "nothing faster: TensorRT has kernels for" in ran.out
    assert "depthwise.weight is left out" in ran.out


def test_json_says_the_same(cli: Cli, model: Path, calib: Path) -> None:
    found = cli("advise", model, "--data", calib, "--json").json
    assert [layer["weight"] for layer in found["layers"]] == ["conv1.weight", "conv2.weight", "fc.weight"]
    for layer in found["layers"]:
        assert set(layer["verdicts"]) == {"8", "4"} and layer["verdicts"]["8"] in ("quantize", "prune", "tie")
        for one in layer["ways"]:
            if one["bound_db"] is not None:
                assert one["output_db"] <= one["bound_db"] + 1e-6
            assert one["stored"] > one["bits"] / 2
    bits = {row["runs as"]: row["bits"] for row in found["fast"]}
    assert bits["2:4 FP16"] == 9 and 8 < bits["INT8"] < 9 and 5 < bits["2:4 INT8"] < 6
    text = str(sc.advise(model, calib))
    assert found["first"].split(";")[0][:30] in text
    assert json.dumps(found) == json.dumps(cli("advise", model, "--data", calib, "--json").json)


def test_fewer_rows_are_enough(model: Path, calib: Path) -> None:
    """Of a few rows the figures are about those of all."""
    whole, few = (sc.advise(model, calib, outputs=count) for count in (10_000, 8))
    for one, other in zip(whole.layers, few.layers, strict=True):
        for a, b in zip(one.ways, other.ways, strict=True):
            assert a.way == b.way
            if a.output_db is not None and b.output_db is not None:
                assert a.output_db == pytest.approx(b.output_db, abs=6)


def test_a_sentence_encoder() -> None:
    """A small one: products have int4, those of channels in 16s NVFP4, those of channels in fours 2:4."""
    tokens = np.random.default_rng(0).integers(0, 97, (40, 16))
    feeds = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": tokens % 2}
    found = sc.advise(zoo("small")["bert-dynamic"](), feeds, outputs=32)
    assert {layer.op for layer in found.layers} <= {"Gemm", "MatMul"} and len(found.layers) >= 12
    ways = {layer.shape: {one.way for one in layer.ways} for layer in found.layers}
    everything = {way.name for way in WAYS}
    assert ways[112, 60] == everything and ways[60, 112] == everything - {"nvfp4 nearest"}
    assert found.network(8) == "quantize" and "quantize to int8 first" in found.first
    rows = {str(row["runs as"]): row["layers"] for row in found.to_json()["fast"]}
    assert rows["INT4, weights alone"] == len(found.layers) > rows["NVFP4"] > 0  # type: ignore[operator]


def test_mistakes(cli: Cli, model: Path, calib: Path) -> None:
    ran = cli("advise", model)
    assert ran.code == 2 and "what to advise on" in ran.err and "--data" in ran.err
    ran = cli("advise", model, "--data", calib, "--sparsity", "--target", "l4")
    assert ran.code == 2 and "two things" in ran.err
    ran = cli("advise", model, "--data", model.with_suffix(".nothing"))
    assert ran.code != 0 and len(ran.err.splitlines()) <= 2
    with pytest.raises(DataError, match="needs calibration data"):
        sc.advise(model, None)
    with pytest.raises(RefusedError, match="at least 1"):
        sc.advise(model, calib, outputs=0)
    with pytest.raises(TypeError, match="unexpected keyword"):
        sc.advise(model, calib, rows=3)  # type: ignore[call-arg]
