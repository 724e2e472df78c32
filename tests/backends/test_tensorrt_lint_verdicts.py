"""Lint against what TensorRT-RTX said of the models of onnx's backend tests, as the benchmark recorded it."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("tensorrt_lint_benchmark", BENCHMARKS / "tensorrt_lint.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_lint_agrees_with_the_recorded_verdicts(benchmark: Any) -> None:
    recorded = {row["name"]: row for row in json.loads(benchmark.RESULTS.read_text())["models"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx's own tests overflow and divide by zero on purpose
        models = benchmark.cases()
    names = [name for name in models if name in recorded and name.startswith("first/")]
    assert len(names) > 1800
    found = benchmark.compare(names, models, recorded)
    assert found["agreement"]["first"]["share"] >= 0.98, found["disagreements"]


def test_the_record_is_complete_and_lists_every_disagreement() -> None:
    record = json.loads((BENCHMARKS / "results" / "tensorrt_lint.json").read_text())
    decided = [row for row in record["models"] if row["builder"] != "profile"]
    differ = {row["name"] for row in decided if (row["builder"] != "builds") != (row["lint"] == "refused")}
    assert differ == {row["name"] for row in record["disagreements"]}
    for way, figures in record["agreement"].items():
        models = [row for row in decided if row["name"].startswith(f"{way}/")]
        assert len(models) == figures["models"]
        assert sum(row["name"] in differ for row in models) == figures["models"] - figures["agree"]
        assert figures["agree"] / figures["models"] >= 0.98
