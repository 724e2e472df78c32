"""`clean` on ONNX's own test models and on real topologies: the same outputs, and nothing left to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers.models import filled, light_models, onnx_testdata, wheel_testdata

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.onnx_read import load
from secateur.passes import Context, Pass, parse_pipeline, run_pipeline
from secateur.passes.cleanup.clean import Clean
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)
_PIECES = parse_pipeline("remove-identities,fold-constants,merge-duplicates{min-bytes=0},remove-dead-code")


def _cleaned(graph: Graph, crashes: Path, *passes: Pass) -> Graph:
    settings = Settings(check=Check.FULL, crashes=crashes)
    return run_pipeline(graph, passes or (Clean(),), Context(runner=_RUNNER), settings=settings).graph


@pytest.mark.slow
@pytest.mark.parametrize(("models", "at_least"), [(onnx_testdata, 50), (wheel_testdata, 2)])
def test_every_operator_test_model_computes_the_same(
    models: Callable[[], list[Path]], at_least: int, tmp_path: Path
) -> None:
    changed = 0
    for path in models():
        graph = load(path)
        _cleaned(graph, tmp_path, *_PIECES)
        cleaned = _cleaned(graph, tmp_path)
        assert str(_cleaned(cleaned, tmp_path)) == str(cleaned), path
        changed += str(cleaned) != str(graph)
    assert changed >= at_least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ops", "left"),
    [
        ("densenet121", 910, 609),
        ("inception_v2", 509, 302),
        ("resnet50", 176, 123),
        ("shufflenet", 203, 154),
        ("squeezenet", 66, 65),
    ],
)
def test_classic_networks_lose_their_normalisations(name: str, ops: int, left: int, tmp_path: Path) -> None:
    graph = filled(next(path for path in light_models() if path.stem == f"light_{name}"))
    cleaned = _cleaned(graph, tmp_path)
    assert (len(graph.ops()), len(cleaned.ops())) == (ops, left)
    if name in ("resnet50", "inception_v2", "shufflenet"):
        assert not any(op.op_type == "BatchNormalization" for op in cleaned.ops())
