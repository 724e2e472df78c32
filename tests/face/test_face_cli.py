"""Every command on a good model: what it prints, as text and as JSON, what it writes, and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli, make_graph

import secateur as sc
from secateur.cli.main import COMMANDS
from secateur.ir.equal import first_difference

PIPELINE = "prune{ratio=0.5},sparsify{worthwhile=false},quantize"
SECATEUR = Path(sys.executable).with_name("secateur")
Files = Callable[[], set[str]]


@pytest.fixture
def small(model: Path, calib: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    sc.compress(model, PIPELINE, data=calib).graph.save(path)
    return path


def test_help_and_version(cli: Cli) -> None:
    shown = cli("--help")
    assert shown.code == 0
    assert all(name in shown.out for name in COMMANDS)
    assert cli("--version").out == f"secateur {sc.__version__}\n"
    assert cli().code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cli: Cli, command: str) -> None:
    shown = cli(command, "--help")
    assert shown.code == 0
    assert {"--json", "--debug"} <= set(shown.out.split())


def test_inspect_says_what_is_there(cli: Cli, model: Path) -> None:
    found = cli("inspect", model, "--json").json
    assert found["size"]["parameters"] == 5642
    # conv1 8·8·16·27, depthwise 8·8·16·9, conv2 8·8·32·144, fc 320: by hand.
    assert found["macs"] == 64 * (16 * 27 + 16 * 9 + 32 * 144) + 320
    assert found["inputs"] == [{"name": "x", "type": "f32[N, 3, 8, 8]"}]
    assert found["opsets"] == [["", 18]]
    weights = {row["name"]: row for row in found["weights"]}
    prunable = [name for name, row in weights.items() if row["prunable"]]
    assert prunable == ["conv1.weight", "depthwise.weight", "conv2.weight"]
    assert "output of the model" in weights["fc.weight"]["reason"]
    assert found["boundaries"] == []
    text = cli("inspect", model)
    assert text.code == 0
    assert all(name in text.out for name in weights)


def test_inspect_sees_sparse_and_quantized_weights(cli: Cli, small: Path) -> None:
    rows = {row["name"]: row for row in cli("inspect", small, "--json").json["weights"]}
    assert {row["quantized"] for row in rows.values()} == {"i8 per channel"}
    assert {name for name, row in rows.items() if row["pattern"] == "2:4"} == {
        "conv2.weight_quantized",
        "fc.weight_quantized",
    }
    assert not any(row["prunable"] for row in rows.values())


def test_macs_are_for_one_sample(cli: Cli, model: Path, tmp_path: Path) -> None:
    make_graph(batch=4).save(tmp_path / "fixed.onnx")
    fixed = cli("inspect", tmp_path / "fixed.onnx", "--json").json
    assert fixed["batch"] == 4
    assert fixed["macs"] == cli("inspect", model, "--json").json["macs"]


def test_compress_writes_everything(cli: Cli, model: Path, calib: Path, tmp_path: Path, files: Files) -> None:
    before = files()
    ran = cli(
        *("compress", model, "--recipe", PIPELINE, "--data", calib, "-o", tmp_path / "o.onnx"),
        *("--report", tmp_path / "report", "--manifest", tmp_path / "o.json", "--seed", 3, "--json"),
    )
    assert ran.code == 0
    written = {"o.onnx", "o.json", "report", "report/report.json", "report/report.txt", "report/report.png"}
    assert files() - before == written
    assert [Path(path).name for path in ran.json["written"]][:2] == ["o.onnx", "o.json"]
    assert ran.json["seed"] == 3
    assert json.loads((tmp_path / "report" / "report.json").read_text())["pipeline"] == ran.json["pipeline"]
    again = sc.compress(model, PIPELINE, data=calib, seed=3)
    assert first_difference(sc.load(tmp_path / "o.onnx"), again.graph) is None


def test_compress_takes_a_recipe_file(cli: Cli, model: Path, calib: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nseed: 5\ndata: {limit: 8}\npasses: [prune: {ratio: 0.25}]")
    common = ("compress", model, "--recipe", recipe, "--data", calib, "-o", tmp_path / "o.onnx", "--json")
    assert cli(*common).json["seed"] == 5
    assert cli(*common, "--seed", 0, "--no-clean").json["seed"] == 0


def test_compress_may_write_over_its_own_input(cli: Cli, model: Path) -> None:
    assert cli("compress", model, "--recipe", "clean", "-o", model).code == 0
    assert "BatchNormalization" not in {op.op_type for op in sc.load(model).ops()}


def test_compare(cli: Cli, model: Path, small: Path, calib: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(24) % 10)
    common = ("compare", model, small, "--data", calib, "--repeats", 2, "--labels", tmp_path / "labels.npy", "--inner")
    found = cli(*common, "--json").json
    [output] = found["outputs"]
    assert output["name"] == "y"
    assert 0 < output["sqnr_db"] < 100
    assert 0 <= output["accuracy_a"] <= 1
    assert found["size_b"]["bytes"] < found["size_a"]["bytes"]
    assert found["size_b"]["macs"] < found["size_a"]["macs"]
    text = cli(*common)
    assert text.code == 0
    assert all(word in text.out for word in ("SQNR", "MACs", "latency", "accuracy", "inner values"))


def test_comparing_a_model_with_itself(cli: Cli, model: Path, calib: Path) -> None:
    found = cli("compare", model, model, "--data", calib, "--repeats", 0, "--json").json
    assert found["outputs"][0]["max_abs"] == 0
    assert found["outputs"][0]["sqnr_db"] is None
    assert cli("compare", model, model, "--data", calib, "--repeats", 0).code == 0


def test_labels_follow_the_samples_that_are_used(cli: Cli, calib: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(24) % 10)
    make_graph(batch=5).save(tmp_path / "fixed.onnx")
    fixed = tmp_path / "fixed.onnx"
    ran = cli(
        *("compare", fixed, fixed, "--data", calib, "--labels", tmp_path / "labels.npy"),
        *("--limit", 17, "--repeats", 0, "--json"),
    )
    assert ran.json["batches"] == 3
    assert ran.json["outputs"][0]["accuracy_a"] is not None


def test_build(cli: Cli, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = tmp_path / "m.engine"
    common = ("build", model, "-o", engine, "--shape", "x=1x3x8x8,4x3x8x8,8x3x8x8", "--compute-capability", "8.9,12.0")
    found = cli(*common, "--json").json
    assert engine.stat().st_size == found["bytes"]
    assert found["targets"] == ["8.9", "12.0"]
    assert "compute capability" not in cli(*common).err


def test_build_from_python_takes_a_graph(graph: sc.Graph, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = sc.build(graph, tmp_path / "m.engine", compute_capability="8.9", shapes={"x": (2, 3, 8, 8)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.engine", "m.engine.json"]
    assert made.build.bytes == (tmp_path / "m.engine").stat().st_size
    assert "engine" in str(made)
    ranged = sc.build(graph, tmp_path / "m.engine", shapes={"x": [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]})
    assert str(ranged.build.profiles[0]) == "x=1x3x8x8,2x3x8x8,4x3x8x8"


def test_print_and_diff(cli: Cli, model: Path, tmp_path: Path) -> None:
    printed = cli("print", model)
    assert printed.out == f"{sc.load(model)}\n"
    assert cli("print", model, "--json").json["text"] == printed.out[:-1]
    make_graph(batch=4).save(tmp_path / "other.onnx")
    same, other = cli("diff", model, model), cli("diff", model, tmp_path / "other.onnx")
    assert (same.code, same.out.strip()) == (0, "")
    assert other.code == 1
    assert "\n-graph @small(%x: f32[N, 3, 8, 8])" in other.out
    assert "first difference: the type of %x" in other.out
    found = cli("diff", model, tmp_path / "other.onnx", "--json")
    assert (found.code, found.json["equal"]) == (1, False)


def test_run_pass_prints_what_comes_out(cli: Cli, model: Path, tmp_path: Path) -> None:
    ran = cli("run-pass", model, "fold-batchnorm", "-o", tmp_path / "o.onnx")
    assert ran.code == 0
    assert ran.out == f"{sc.load(tmp_path / 'o.onnx')}\n"
    assert "BatchNormalization" not in ran.out
    assert "fold-batchnorm: 1 rewrites" in ran.err
    assert cli("run-pass", model, "fold-batchnorm", "--json").json["text"] == ran.out[:-1]


def test_bisect_by_error(cli: Cli, model: Path, calib: Path) -> None:
    recipe = "remove-identities,sparsify{worthwhile=false},remove-dead-code"
    common = ("bisect", model, "--recipe", recipe, "--data", calib, "--json", "--max-error")
    good = cli(*common, 1000)
    assert (good.code, good.json["culprit"]) == (0, None)
    bad = cli(*common, 1e-4)
    assert bad.code == 1
    assert bad.json["culprit"]["pass"] == "sparsify{worthwhile=false}"
    assert bad.json["culprit"]["rewrite"]["rule"] == "sparsify"
    text = cli(*common[:-2], "--max-error", 1e-4)
    assert (text.code, "rewrite 1 of 2" in text.out) == (1, True)


def test_bisect_by_command(cli: Cli, model: Path, tmp_path: Path) -> None:
    script = tmp_path / "judge.py"
    script.write_text(
        "import sys, secateur\n"
        "sys.exit(not any(op.op_type == 'BatchNormalization' for op in secateur.load(sys.argv[1]).ops()))\n"
    )
    command = f"{sys.executable} {script}"
    found = cli("bisect", model, "--recipe", "clean,remove-identities", "--good-command", command, "--json").json
    assert (found["culprit"]["pass"], found["culprit"]["index"]) == ("clean", 0)


def test_bisect_wants_one_judge(cli: Cli, model: Path) -> None:
    assert cli("bisect", model, "--recipe", "clean").code == 2
    assert cli("bisect", model, "--recipe", "clean", "--max-error", 1).code == 2
    assert cli("bisect", model, "--recipe", "clean", "--max-error", 1, "--good-command", "true").code == 2
    assert cli("bisect", model, "--recipe", "clean", "--good-command", "/no/such/program").code == 1
    assert cli("bisect", model, "--recipe", "clean", "--good-command", "'").code == 1


def test_the_installed_script(model: Path) -> None:
    ran = subprocess.run([SECATEUR, "inspect", model, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["model"] == "model.onnx"
    assert ran.stderr == ""


def test_progress_goes_to_a_terminal_and_the_answer_to_standard_output(
    model: Path, calib: Path, tmp_path: Path
) -> None:
    terminal, its_end = os.openpty()
    ran = subprocess.run(
        [SECATEUR, "compress", model, "--recipe", "quantize", "--data", calib, "-o", tmp_path / "o.onnx", "--json"],
        stdout=subprocess.PIPE,
        stderr=its_end,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        check=True,
    )
    os.close(its_end)
    shown = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert b"passes" in shown
    assert json.loads(ran.stdout)["pipeline"] == "clean,quantize"


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    pipe = f"set -o pipefail; '{SECATEUR}' print '{model}' | true; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    assert ran.stdout in ("141\n", "0\n")  # 0: all of it fitted into the pipe before the reader left


def test_the_runner_is_an_option(cli: Cli, model: Path, calib: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    small = tmp_path / "small.onnx"
    done = cli("compress", model, "--recipe", "prune{ratio=0.5}", "--data", calib, "-o", small, "--runner", "torch")
    assert done.code == 0 and small.is_file()
    assert cli("compare", model, small, "--data", calib, "--runner", "torch", "--repeats", 0).code == 0
    refused = cli("compare", model, small, "--data", calib, "--runner", "nobody")
    assert refused.code == 1 and "no runner 'nobody'" in refused.err
