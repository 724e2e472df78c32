"""Every model that can be had, in and out again: the same message, the same bytes, the same outputs bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from helpers import models
from helpers.canonical import canonical, differences
from helpers.onnxruntime_runs import random_feeds, same, session, stored_feeds

from secateur.ir import Graph
from secateur.ir.onnx_read import from_bytes, load
from secateur.ir.onnx_write import detached, save, to_bytes

SHARDS = 4
FEEDS: dict[str, dict[str, int]] = {
    "ocr-detector": {"x:2": 64, "x:3": 64},
    "ocr-recogniser": {"x:2": 48, "x:3": 64},
    "ocr-classifier": {"x:2": 48, "x:3": 192},
    "vad": {"batch": 1, "input:1": 576},
    "vad-half": {"batch": 1, "sequence": 576},
}
"""Sizes of axes that a model leaves open, as `random_feeds` takes them."""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, since pytest would keep hundreds of megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def exported(path: Path) -> tuple[Graph, bytes]:
    """The graph in a file and its export, of which the message, a second export and a clone's must agree."""
    graph = load(path)
    graph.verify()
    content = to_bytes(graph)
    assert content == to_bytes(graph) == to_bytes(graph.clone()) == to_bytes(from_bytes(content))
    assert differences(canonical(onnx.load(path)), canonical(onnx.ModelProto.FromString(content))) == []
    return graph, content


def opened(model: bytes | Path) -> onnxruntime.InferenceSession | None:
    """A session, or None where onnxruntime refuses the model."""
    try:
        return session(model)
    except Exception:  # noqa: BLE001 - onnxruntime's exceptions have no common base of their own
        return None


def ran(runner: onnxruntime.InferenceSession, folder: Path) -> Any:
    """The outputs on stored inputs, or None where onnxruntime cannot be fed these or fails on them."""
    try:
        return runner.run(None, stored_feeds(runner, folder))
    except Exception:  # noqa: BLE001
        return None


def check(paths: list[Path]) -> tuple[int, int]:
    """Round trip of all, comparing outputs where the original runs; how many could be opened, how many ran."""
    could_open = could_run = 0
    for path in paths:
        _, content = exported(path)
        before = opened(path)
        if before is None:
            continue
        could_open += 1
        after = opened(content)
        assert after is not None, f"{path} can be opened, its export cannot"
        for folder in sorted(path.parent.glob("test_data_set_*")):
            expected = ran(before, folder)
            if expected is not None:
                could_run += 1
                assert same(expected, ran(after, folder)), f"{path} computes something else after export"
    return could_open, could_run


@pytest.mark.parametrize("shard", range(SHARDS))
def test_debian_test_data(shard: int) -> None:
    paths = models.onnx_testdata()
    assert len(paths) >= 1072
    could_open, could_run = check(paths[shard::SHARDS])
    assert could_open >= 230 and could_run >= 230  # 966 models open in all, and 960 of them run


def test_test_data_of_the_onnx_wheel() -> None:
    could_open, could_run = check(models.wheel_testdata())
    assert could_open >= 100 and could_run >= 100


@pytest.mark.parametrize("name", list(models.REAL))
def test_real_models(name: str, scratch: Path) -> None:
    path = models.real_model(name)
    graph, content = exported(path)
    before = session(path)
    feeds = random_feeds(before, FEEDS.get(name))
    if "sr" in feeds:
        feeds["sr"].fill(16000)
    expected = before.run(None, feeds)
    assert same(expected, session(content).run(None, feeds))
    save(graph, scratch / "model.onnx", external_data=True)
    assert same(expected, session(scratch / "model.onnx").run(None, feeds))
    assert to_bytes(load(scratch / "model.onnx")) == content
    assert same(expected, run_detached(graph, feeds))


def run_detached(graph: Graph, feeds: dict[str, Any]) -> Any:
    """The outputs of a model whose large weights are handed over in memory."""
    content, tensors = detached(graph)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def light_models() -> list[Any]:
    """The light models; the three with hundreds of megabytes of weights are slow."""
    heavy = {"light_vgg19", "light_zfnet512", "light_bvlc_alexnet"}
    marks = {name: [pytest.mark.slow] for name in heavy}
    return [pytest.param(path, marks=marks.get(path.stem, []), id=path.stem) for path in models.light_models()]


@pytest.mark.parametrize("path", light_models())
def test_light_models(path: Path, scratch: Path) -> None:
    exported(path)
    graph = models.filled(path)
    graph.verify()
    assert not [op for op in graph.ops() if op.op_type == "ConstantOfShape"]
    before = session(to_bytes(graph))
    feeds = random_feeds(before)
    expected = before.run(None, feeds)
    save(graph, scratch / "model.onnx", external_data=True)
    assert same(expected, session(to_bytes(load(scratch / "model.onnx"))).run(None, feeds))
