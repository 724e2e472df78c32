"""The models that pruning is tested on: they load, run, accept their feeds, and hide nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers import zoo as zoo_module
from helpers.onnxruntime_runs import session
from helpers.zoo import Model, random_feeds, zoo
from helpers.zoo_feeds import vocabulary

from secateur.ir import DataType, Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.onnx_write import to_bytes

SMALL = zoo("small")
PLAIN = {name: model for name, model in SMALL.items() if not model.form}


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(session(to_bytes(graph)).run(None, feeds))


def distance(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(
        float(np.abs(one - other).max() / np.abs(other).max()) for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
def test_a_model_loads_runs_and_hears_its_inputs(model: Model) -> None:
    graph = model()
    graph.verify()
    first, second = (run(graph, random_feeds(graph, seed)) for seed in (0, 1))
    assert all(np.isfinite(array).all() for array in first)
    assert distance(first, second) > 0.01


@pytest.mark.parametrize("model", PLAIN.values(), ids=PLAIN)
def test_every_weight_shows_in_the_output(model: Model) -> None:
    graph = model()
    feeds = random_feeds(graph)
    dense = run(graph, feeds)
    for value in list(graph.constants()):
        kept = value.const
        if kept is not None and kept.dtype is DataType.FLOAT32 and len(kept.shape) > 1 and kept.numpy().any():
            value.set_const(Tensor(np.zeros(kept.shape, np.float32)))
            assert distance(run(graph, feeds), dense) > 1e-3, f"nobody would notice a wrong {value.name}"
            value.set_const(kept)


@pytest.mark.parametrize("name", ["light-squeezenet", "light-shufflenet"])
def test_a_light_model_is_neither_sure_nor_indifferent(name: str) -> None:
    graph = zoo("light")[name]()
    (found,) = run(graph, random_feeds(graph))
    assert 1.5 / found.size < found.max() < 0.5


@pytest.mark.parametrize("name", ["vad", "vad-sequence", "ocr-classifier", "mnist", "usps", "crepe"])
def test_a_real_model_runs(name: str) -> None:
    graph = zoo("real")[name]()
    assert all(np.isfinite(array).all() for array in run(graph, random_feeds(graph)))


def test_listing_makes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo_module, "CACHE", tmp_path / "cache")
    groups = [zoo(group) for group in ("small", "real", "light", "full")]
    assert len(zoo()) == sum(map(len, groups)) and len(groups[2]) == 9
    assert not (tmp_path / "cache").exists()


def test_without_torch_a_test_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo_module, "CACHE", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="bert cannot be made without torch, onnxscript, transformers"):
        SMALL["bert"]()


def test_a_file_is_made_anew_when_the_form_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [model.path().name.removeprefix(f"{model.name}-") for model in (SMALL["gru"], SMALL["lstm"])]
    assert names[0] == names[1]  # one helper builds both, in one form
    monkeypatch.setattr(zoo_module, "_version", lambda package: "another")
    assert SMALL["gru"]._fingerprint() not in names[0]


def test_feeds_are_ids_of_the_table_ones_for_masks_and_one_size_for_a_symbol() -> None:
    graph = Graph("lookup")
    ids = add_input(graph, "ids", ("batch", "length"), DataType.INT64)
    mask = add_input(graph, "mask", ("batch", "length"), DataType.INT64)
    noise = add_input(graph, "noise", ("batch",))
    table = add_constant(graph, "table", np.ones((3, 5), np.float32))
    axis = add_constant(graph, "axis", np.array([0]))
    looked = emit(graph, "Gather", [table, emit(graph, "Unsqueeze", [ids, axis]).output], {"axis": 1}).output
    graph.set_interface(outputs=[looked, mask, noise])
    feeds = random_feeds(graph, 3)
    assert vocabulary(graph, ids) == 5 and vocabulary(graph, mask) == 1000
    assert feeds["ids"].shape == feeds["mask"].shape == (*feeds["noise"].shape, 11)
    assert feeds["ids"].max() == 4 and feeds["ids"].min() >= 0 and (feeds["mask"] == 1).all()
    assert all((feeds[name] == array).all() for name, array in random_feeds(graph, 3).items())


def test_rotary_rows_come_back_in_halves() -> None:
    pytest.importorskip("torch")
    from helpers.zoo_real import halves

    heads, pairs, width = 3, 4, 5
    rows = np.arange(heads * 2 * pairs * width).reshape(-1, width)
    # How a row of a pair's first or second half gets to its place in a GGUF file.
    stored = np.empty_like(rows)
    for head in range(heads):
        for half in range(2):
            for pair in range(pairs):
                stored[head * 2 * pairs + 2 * pair + half] = rows[head * 2 * pairs + half * pairs + pair]
    assert (halves(stored, heads) == rows).all()
