"""Units that are given by name, sizes that kernels like, and what is said of sizes that they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.masking import mask_readers

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.dims.groups import Group, groups
from secateur.ir.errors import DataError, RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.alignment import chosen_step
from secateur.passes.prune.facts import dims


def _net() -> Graph:
    return Net().conv(24).op("Relu").conv(40, pads=[1, 1, 1, 1]).op("Relu").conv(5).done()


def _prune(graph: Graph, text: str) -> Result:
    return run_pipeline(graph, parse_pipeline(text), Context(runner=OnnxRuntimeRunner))


def _given(folder: Path, units: Any) -> str:
    path = folder / "units.json"
    path.write_text(json.dumps(units))
    return f'prune{{units="{path}"}}'


def _free(graph: Graph) -> list[Group]:
    return [group for group in groups(dims(graph)) if group.pin is None]


def _run(graph: Graph) -> np.ndarray:
    with OnnxRuntimeRunner(graph) as runner:
        feeds = {"x": np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)}
        return next(iter(runner.run(feeds).values()))


def test_given_units_are_the_ones_that_stay(tmp_path: Path) -> None:
    graph = _net()
    first, second = _free(graph)
    result = _prune(graph, _given(tmp_path, {first.name: [0, 3, 5, 23], second.name: 7}))
    masked = graph.clone()
    found = dims(masked)
    twins = {group.name: group for group in groups(found)}
    axis = result.manifest.kept[second.weights[0].weight.name][second.weights[0].axis]
    assert len(axis) == 7
    mask_readers(masked, found, {twins[first.name].dim: np.array([0, 3, 5, 23]), twins[second.name].dim: axis})
    np.testing.assert_allclose(_run(result.graph), _run(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"nobody": 3}, "no group 'nobody'"),
        ({"FIRST": 0}, "cannot keep 0"),
        ({"FIRST": 25}, "cannot keep 25"),
        ({"FIRST": []}, "none would be left"),
        ({"FIRST": [3, 3]}, "must rise"),
        ({"FIRST": [1, 24]}, "must rise from 0 to 23"),
        ({"PINNED": 2}, "cannot be pruned"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, units: dict[str, Any], words: str) -> None:
    graph = _net()
    names = {"FIRST": _free(graph)[0].name}
    names["PINNED"] = next(group.name for group in groups(dims(graph)) if group.pin)
    text = _given(tmp_path, {names.get(name, name): some for name, some in units.items()})
    before = _run(graph)
    with pytest.raises(RefusedError, match=words):
        _prune(graph, text)
    np.testing.assert_array_equal(_run(graph), before)


@pytest.mark.parametrize("content", ["[1, 2]", '{"a": "many"}', "{", '{"a": [0.5]}'])
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "units.json").write_text(content)
    with pytest.raises(DataError, match="does not say which units"):
        _prune(_net(), f'prune{{units="{tmp_path / "units.json"}"}}')
    with pytest.raises(DataError, match="cannot read"):
        _prune(_net(), f'prune{{units="{tmp_path / "missing.json"}"}}')


def test_a_size_is_rounded_to_the_widest_multiple_that_costs_hardly_any_pruning() -> None:
    assert chosen_step(1536, 1230, [64, 32, 16, 8]) == 64
    assert chosen_step(512, 65, [64, 32, 16, 8]) == 32  # 64s would keep 128
    assert chosen_step(64, 32, [64, 32, 16, 8]) == 32
    assert chosen_step(40, 20, [64, 32, 16, 8]) == 8
    assert chosen_step(12, 6, [64, 32, 16, 8]) == 8


def test_the_report_shows_the_multiple_and_warns_of_sizes_that_kernels_do_not_like() -> None:
    rows = _prune(_net(), "prune{ratio=0.5}").report.entries[0].rows
    assert [(row["kept"], row["multiple"]) for row in rows] == [(16, 16), (24, 8)]
    report = _prune(_net(), "prune{ratio=0.5, align=1}").report.entries[0]
    assert [row["kept"] for row in report.rows] == [12, 20]
    assert sum("may be faster" in note for note in report.notes) == 2
