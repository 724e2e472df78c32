"""`compress` from Python: what it leaves alone, what it adapts, what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import make_graph

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.compression import compress
from secateur.ir.equal import first_difference
from secateur.ir.errors import BackendError, DataError, SecateurError, TextError
from secateur.passes.manifest import Manifest
from secateur.passes.report import Size

PIPELINE = "prune{ratio=0.5},sparsify{worthwhile=false},quantize"


def outputs(graph: sc.Graph, batch: int = 3) -> np.ndarray:
    x = np.random.default_rng(5).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    with OnnxRuntimeRunner(graph) as runner:
        return runner.run({"x": x})["y"]


def test_the_whole_road(model: Path, calib: Path, tmp_path: Path) -> None:
    result = sc.compress(model, PIPELINE, data=calib)
    result.graph.save(tmp_path / "small.onnx")
    result.manifest.save(tmp_path / "small.manifest.json")
    again = sc.load(tmp_path / "small.onnx")
    assert np.array_equal(outputs(again), outputs(result.graph))
    assert Size.of(again).bytes < Size.of(sc.load(model)).bytes / 5
    manifest = Manifest.load(tmp_path / "small.manifest.json")
    assert manifest.model == "model.onnx"
    assert len(manifest.sha256) == 64
    assert manifest.pipeline == result.report.pipeline
    assert [entry.name for entry in result.report.run.entries] == ["clean", "prune", "sparsify", "quantize"]


def test_the_input_graph_is_not_changed(graph: sc.Graph, calib: Path) -> None:
    before = graph.clone()
    sc.compress(graph, PIPELINE, data=str(calib))
    assert first_difference(before, graph) is None


def test_every_form_of_recipe_does_the_same(graph: sc.Graph, calib: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\npasses: [prune: {ratio: 0.25}, quantize]")
    text = "prune{ratio=0.25},quantize"
    done = [compress(graph, form, calib) for form in (text, tmp_path / "r.yaml", sc.parse_pipeline(text))]
    for other in done[1:]:
        assert first_difference(done[0].graph, other.graph) is None
        assert other.report.run.to_json(timing=False) == done[0].report.run.to_json(timing=False)


def test_same_input_and_seed_give_the_same_bytes(graph: sc.Graph, calib: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        sc.compress(graph, PIPELINE, data=calib, seed=3).graph.save(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_clean_runs_first_unless_told_otherwise(graph: sc.Graph) -> None:
    def ops(**options: bool) -> list[str]:
        return [op.op_type for op in sc.compress(graph, "remove-identities", **options).graph.ops()]

    assert "BatchNormalization" not in ops()
    assert "BatchNormalization" in ops(clean=False)
    assert any("`clean` ran first" in remark for remark in sc.compress(graph, "remove-identities").report.remarks)
    twice = sc.compress(graph, "clean,remove-identities")
    assert [entry.name for entry in twice.report.run.entries] == ["clean", "remove-identities"]
    assert not twice.report.remarks


def test_what_the_caller_says_goes_before_the_recipe(graph: sc.Graph, calib: Path) -> None:
    recipe = sc.Recipe(pipeline="remove-identities", seed=4, clean=False)
    assert sc.compress(graph, recipe).report.seed == 4
    assert sc.compress(graph, recipe, seed=0).report.seed == 0
    assert len(sc.compress(graph, recipe, clean=True).report.run.entries) == 2


def test_data_is_adapted_to_a_fixed_batch(calib: Path) -> None:
    # 24 samples, batches of 5: four whole ones, and four samples that no batch can take.
    fixed = sc.compress(make_graph(batch=5), "quantize", data=calib)
    free = sc.compress(make_graph(), "quantize", data=calib, limit=20)
    assert np.array_equal(outputs(fixed.graph, 5), outputs(free.graph, 5))
    with pytest.raises(DataError, match="the model takes batches of 5, but a batch size of 4"):
        sc.compress(make_graph(batch=5), "quantize", data=calib, batch_size=4)


def test_data_may_be_named_by_nobody_and_of_another_float_type(graph: sc.Graph, calib: Path) -> None:
    with np.load(calib) as arrays:
        x = arrays["x"]
    named = sc.compress(graph, "quantize", data={"x": x})
    for data in (x, x.astype(np.float64), [x[:8], x[8:]], [(x, np.zeros(24))], lambda: iter([{"x": x}])):
        assert first_difference(sc.compress(graph, "quantize", data=data).graph, named.graph) is None


def test_passes_that_need_data_say_so(graph: sc.Graph) -> None:
    with pytest.raises(DataError, match="needs calibration data") as caught:
        sc.compress(graph, "quantize")
    assert caught.value.hint


@pytest.mark.parametrize("limit", [0, -1])
def test_limits_below_one_are_refused(graph: sc.Graph, calib: Path, limit: int) -> None:
    with pytest.raises(DataError, match="must be at least 1"):
        sc.compress(graph, "quantize", data=calib, limit=limit)


def test_unknown_arguments_and_passes(graph: sc.Graph) -> None:
    with pytest.raises(TypeError, match="batchsize"):
        sc.compress(graph, "clean", batchsize=3)  # type: ignore[call-arg]
    with pytest.raises(TextError, match="there is no pass 'prunee'") as caught:
        sc.compress(graph, "prunee")
    assert "prune" in (caught.value.hint or "")


def test_a_missing_runtime_is_named_when_it_is_needed(
    graph: sc.Graph, calib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    sc.compress(graph, "clean", data=calib)
    with pytest.raises(BackendError, match="onnxruntime") as caught:
        sc.compress(graph, "quantize", data=calib)
    assert "pip install" in (caught.value.hint or "")


def test_progress_is_told(graph: sc.Graph, calib: Path) -> None:
    told: list[tuple[str, int, int]] = []
    sc.compress(graph, "quantize", data=calib, progress=lambda *step: told.append(step))
    assert [(done, total) for description, done, total in told if description == "passes"][-1] == (2, 2)
    assert "calibrating" in {description for description, _, _ in told}
    assert all(done >= 0 and (total == 0 or done <= total) for _, done, total in told)


def test_the_report_reads_well_and_is_json(graph: sc.Graph, calib: Path) -> None:
    report = sc.compress(graph, PIPELINE, data=calib).report
    text = str(report)
    assert max(map(len, text.splitlines())) <= 120
    for wanted in ("prune", "sparsify", "quantize", "conv2.weight", "MACs", "calib.npz", "`clean` ran first"):
        assert wanted in text
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["totals"]["macs"]["after"] < document["totals"]["macs"]["before"]
    assert [entry["text"].partition("{")[0] for entry in document["passes"]] == [
        "clean",
        "prune",
        "sparsify",
        "quantize",
    ]


def test_the_report_is_saved_whole(graph: sc.Graph, calib: Path, tmp_path: Path) -> None:
    report = sc.compress(graph, PIPELINE, data=calib).report
    written = report.save(tmp_path / "a" / "b")
    assert [path.name for path in written] == ["report.json", "report.txt", "report.png"]
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == sorted(path.name for path in written)
    assert written[1].read_text(encoding="utf-8") == f"{report}\n"
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert json.loads(written[0].read_text())["seed"] == 0


def test_the_report_does_without_matplotlib(graph: sc.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    report = sc.compress(graph, "clean").report
    assert [path.name for path in report.save(tmp_path)] == ["report.json", "report.txt"]


def test_a_report_that_cannot_be_saved(graph: sc.Graph, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SecateurError, match="cannot make the folder"):
        sc.compress(graph, "clean").report.save(tmp_path / "file")


def test_torch_runs_what_onnxruntime_runs(graph: sc.Graph, calib: Path) -> None:
    pytest.importorskip("torch")
    one, other = (sc.compress(graph, PIPELINE, data=calib, runner=runner) for runner in ("onnxruntime", "torch"))
    assert [op.op_type for op in one.graph.ops()] == [op.op_type for op in other.graph.ops()]
    np.testing.assert_allclose(outputs(one.graph), outputs(other.graph), atol=0.05 * np.abs(outputs(one.graph)).max())
    for runner in ("onnxruntime", "torch"):
        found = sc.compare(graph, one.graph, str(calib), repeats=0, runner=runner).found
        assert found.batches and found.latency is None


@pytest.mark.parametrize("runner", ["tensorflow", "", "onnxruntime:cuda"])
def test_a_runner_that_is_not_known_is_refused(graph: sc.Graph, calib: Path, runner: str) -> None:
    with pytest.raises(BackendError, match="no runner") as caught:
        sc.compress(graph, "clean", runner=runner)
    assert "torch:cuda" in (caught.value.hint or "")
    with pytest.raises(BackendError, match="no runner"):
        sc.compare(graph, graph, str(calib), runner=runner)
