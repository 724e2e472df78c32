"""The manifest: successive prunings compose, files come back equal, damaged ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir.errors import DataError, OutputError
from secateur.passes import Manifest
from secateur.passes.manifest import Scale


@given(st.data())
def test_composed_indices_give_the_weight_that_successive_slices_give(data: st.DataObject) -> None:
    weight = np.arange(7 * 5 * 3).reshape(7, 5, 3)
    manifest, now = Manifest(), weight
    masked = np.ones(weight.shape, bool)
    for _ in range(data.draw(st.integers(0, 5))):
        axis = data.draw(st.integers(0, 2))
        size = now.shape[axis]
        kept = data.draw(st.lists(st.integers(0, size - 1), max_size=size)) if size else []
        manifest.keep("w", axis, kept)
        now, masked = now.take(kept, axis), masked.take(kept, axis)
        if data.draw(st.booleans()):
            mask = np.array(data.draw(st.lists(st.booleans(), min_size=now.size, max_size=now.size)), bool)
            manifest.mask("w", mask.reshape(now.shape))
            masked &= mask.reshape(now.shape)
    replayed = weight
    for axis, indices in manifest.kept.get("w", {}).items():
        replayed = replayed.take(indices, axis)
    np.testing.assert_array_equal(replayed, now)
    if "w" in manifest.masks:
        np.testing.assert_array_equal(manifest.masks["w"], masked)


def test_a_copy_is_independent() -> None:
    manifest = Manifest(model="m")
    manifest.keep("w", 0, [0, 2])
    twin = manifest.copy()
    twin.keep("w", 0, [1])
    twin.keep("v", 1, [1])
    assert manifest.to_json()["kept"] == {"w": {"0": [0, 2]}}
    assert twin.to_json()["kept"] == {"v": {"1": [1]}, "w": {"0": [2]}}


@pytest.mark.parametrize(("axis", "indices"), [(-1, [0]), (0, [[0]]), (0, [-1]), (0, [2])])
def test_indices_that_make_no_sense(axis: int, indices: Any) -> None:
    manifest = Manifest()
    manifest.keep("w", 0, [3, 5])
    with pytest.raises(ValueError, match="'w'"):
        manifest.keep("w", axis, indices)


def _full() -> Manifest:
    manifest = Manifest("net", "0f" * 32, "prune{ratio=0.5}", exact=False)
    manifest.keep("conv.weight", 1, [0, 2, 3])
    manifest.keep("conv.weight", 0, range(4))
    manifest.mask("fc.weight", np.random.default_rng(0).random((5, 7)) < 0.5)
    manifest.mask("empty", np.zeros((0, 3), bool))
    manifest.scale("fc.weight", Scale("int8", np.array([0.1, 0.25], np.float32), np.array([0, 1]), axis=0))
    manifest.scale("table", Scale("int4", np.array([[0.5], [1e-8]], np.float32), axis=1, block=32))
    return manifest


def test_a_file_comes_back_equal(tmp_path: Path) -> None:
    manifest = _full()
    manifest.save(tmp_path / "manifest.json")
    again = Manifest.load(tmp_path / "manifest.json")
    assert again.to_json() == manifest.to_json()
    np.testing.assert_array_equal(again.masks["fc.weight"], manifest.masks["fc.weight"])
    assert again.scales["fc.weight"].scale.dtype == np.float32
    np.testing.assert_array_equal(again.scales["table"].scale, manifest.scales["table"].scale)
    again.save(tmp_path / "second.json")
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()


def test_the_file_says_what_it_promises(tmp_path: Path) -> None:
    manifest = Manifest("net", "0f" * 32, "prune")
    manifest.keep("w", 0, [0, 2])
    manifest.save(tmp_path / "manifest.json")
    assert json.loads((tmp_path / "manifest.json").read_text()) == {
        "version": 1,
        "model": {"name": "net", "sha256": "0f" * 32},
        "pipeline": "prune",
        "kept": {"w": {"0": [0, 2]}},
        "exact": True,
    }


@pytest.mark.parametrize(
    ("place", "entry", "message"),
    [
        (("version",), 2, "version"),
        (("model", "sha256"), "xyz", "model.sha256"),
        (("exact",), None, "exact"),
        (("kept",), [1], "kept"),
        (("kept", "conv.weight", "0"), [0, -1], "kept.conv.weight.0.1"),
        (("kept", "conv.weight", "first"), [0], "kept.conv.weight.first"),
        (("masks", "fc.weight", "bits"), "not base64!", "no manifest"),
        (("masks", "fc.weight", "bits"), "AAAA", "no manifest"),
        (("masks", "fc.weight", "shape"), [5, 700], "a mask of 5 bytes for shape"),
        (("unheard-of",), 1, "unheard-of"),
    ],
)
def test_a_damaged_manifest_is_refused(place: tuple[str, ...], entry: Any, message: str, tmp_path: Path) -> None:
    document = _full().to_json()
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = entry
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        Manifest.load(tmp_path / "manifest.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
def test_no_manifest_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match="is no manifest"):
        Manifest.load(tmp_path / "manifest.json")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        Manifest.load(tmp_path / "manifest.json")
    with pytest.raises(OutputError):
        _full().save(tmp_path / "nowhere" / "manifest.json")
