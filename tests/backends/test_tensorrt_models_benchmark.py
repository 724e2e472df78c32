"""The script behind the table of architectures: on one tiny model, and what it says of rows that went wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers.face_models import make_graph

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tensorrt_models.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tensorrt_models_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_row_for_each_variant(script):
    pytest.importorskip("tensorrt_rtx")

    class Tiny:
        name = "tiny"

        def __call__(self):
            return make_graph()

    recipes = {"dense": "", "2:4+int8": script.variants(["int8"])["2:4+int8"], "odd": "quantize{format=int9}"}
    dense, both, odd = script.measure(Tiny(), recipes, ("8.9", "12.0"))
    assert dense.built == both.built == ("8.9", "12.0")
    assert both.sparse > 0
    assert both.quantized == both.honoured > 0
    assert both.in_float == dense.in_float == ()
    assert "int9" in odd.failed
    assert odd.built == ()


def test_what_is_lost_is_named(script):
    rows = [
        script.Row("a", "dense", built=("8.9", "12.0")),
        script.Row("a", "int8", built=("12.0",), refused={"8.9": "why"}, quantized=2, honoured=1, in_float=("n",)),
        script.Row("a", "fp8", built=("12.0",), refused={"8.9": "why"}, lacking=("8.9",)),
        script.Row("b", "dense"),
        script.Row("b", "int8"),
        script.Row("b", "fp8", failed="no such format"),
    ]
    found = script.summary(rows)
    assert found["lost"] == ["a int8: 8.9"]
    assert found["in_float"] == ["a int8: n"]
    assert found["no_such_variant"] == ["b fp8: no such format"]
    assert (found["models"], found["built"]) == (2, 3)


def test_rows_replace_older_ones_of_the_same_variant(script, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(
        json.dumps({"rows": [{"model": "a", "variant": "int8", "built": ["8.9"], "lacking": [], "in_float": []}]})
    )
    kept = script.merged([script.Row("b", "int8")], path)
    assert [row.key for row in kept] == [("a", "int8"), ("b", "int8")]
    assert kept[0].built == ("8.9",)
    assert script.merged([script.Row("a", "int8")], path)[0].built == ()


def test_the_saved_table_lost_nothing() -> None:
    saved = SCRIPT.parent / "results" / "tensorrt_models.json"
    if not saved.is_file():
        pytest.skip("nobody made it yet")
    assert json.loads(saved.read_text())["summary"]["lost"] == []
