"""`secateur build` with a build file: everything it asks for, nothing twice, and nothing that did not come true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli, make_graph

from secateur.amounts import amount_of, bytes_of
from secateur.build_file import BuildFile
from secateur.checking import CheckFailed, Figures, require, verdicts
from secateur.ir.errors import BackendError, TextError
from secateur.project import MEMORY, build_project

Files = Callable[[], set[str]]
PLAIN = """
version = 1
[model]
path = "model.onnx"
output = "out/small.onnx"
[recipe]
passes = "prune{ratio=0.5}"
[data]
path = "calib.npz"
limit = 8
[budget]
macs = 0.9
[checks]
max_error = 0.9
min_cosine = 0.1
"""
ENGINE = """
[[engine]]
output = "out/small.engine"
compute_capability = "8.9"
shapes = { x = "1x3x8x8,2x3x8x8,4x3x8x8" }
optimization_level = 0
"""


@pytest.fixture
def project(tmp_path: Path, model: Path, calib: Path) -> Path:
    path = tmp_path / "secateur.toml"
    path.write_text(PLAIN)
    return path


@pytest.fixture
def with_engine(project: Path) -> Path:
    pytest.importorskip("tensorrt_rtx")
    project.write_text(PLAIN + ENGINE)
    return project


def built(path: Path, **how: bool) -> dict[str, bool]:
    return {step.name: step.built for step in build_project(path, **how).steps}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_all_that_is_asked_for_is_there(cli: Cli, with_engine: Path, files: Files) -> None:
    before = files()
    ran = cli("build", with_engine, "--json")
    assert ran.code == 0, ran.out
    names = ("small.onnx", "small.onnx.manifest.json", "small.engine", "small.engine.json")
    assert files() - before == {"out", MEMORY, *(f"out/{name}" for name in names)}
    found = ran.json
    assert [step["built"] for step in found["steps"]] == [True, True]
    assert all(check["holds"] for check in found["checks"])
    assert found["figures"]["macs"] < 0.9 * found["figures"]["dense"]["macs"]
    assert 0 < found["figures"]["error"] < 0.9
    beside = json.loads((with_engine.parent / "out/small.engine.json").read_text())
    assert beside["engine"]["file"] == "small.engine"
    assert beside["model"]["file"] == "small.onnx"
    assert beside["manifest"]["file"] == "small.onnx.manifest.json"


def test_nothing_is_built_twice(with_engine: Path) -> None:
    folder = with_engine.parent
    assert set(built(with_engine).values()) == {True}
    outputs = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "out").iterdir()}
    assert set(built(with_engine).values()) == {False}
    assert outputs == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (folder / "out").iterdir()}
    edit(with_engine, "optimization_level = 0", "optimization_level = 1")
    assert built(with_engine) == {"model": False, "engine out/small.engine": True}
    (folder / "out/small.engine").write_bytes(b"changed by somebody")
    assert built(with_engine) == {"model": False, "engine out/small.engine": True}
    edit(with_engine, "max_error = 0.9", "max_error = 0.8")  # a limit is held against figures that are known
    assert set(built(with_engine).values()) == {False}
    assert set(built(with_engine, force=True).values()) == {True}
    (folder / MEMORY).write_text("no JSON")
    assert set(built(with_engine).values()) == {True}


@pytest.mark.parametrize("what", ["model", "recipe", "data", "data options"])
def test_what_changes_is_built_anew(what: str, project: Path) -> None:
    assert built(project) == {"model": True}
    if what == "model":
        make_graph(batch=4).save(project.parent / "model.onnx")
    elif what == "recipe":
        edit(project, "ratio=0.5", "ratio=0.25")
    elif what == "data":
        np.savez(project.parent / "calib.npz", x=np.zeros((8, 3, 8, 8), np.float32))
    else:
        edit(project, "limit = 8", "limit = 4")
    assert built(project) == {"model": True}


def test_touching_a_file_changes_nothing(project: Path) -> None:
    build_project(project)
    os.utime(project.parent / "model.onnx")
    assert built(project) == {"model": False}


def test_another_output_is_built_and_the_old_one_stays(project: Path) -> None:
    build_project(project)
    edit(project, "out/small.onnx", "out/other.onnx")
    assert built(project) == {"model": True}
    one, other = ((project.parent / f"out/{name}.onnx").read_bytes() for name in ("small", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_error = 0.9", ("max_error = 1e-9", "relative error is", "at most 1e-09")),
        ("min_cosine = 0.1", ("min_cosine = 1.0", "cosine is", "at least 1")),
        ("macs = 0.9", ("macs = 0.01", "macs as a share of the dense model's is", "at most 0.01")),
        ("macs = 0.9", ("parameters = 100", "parameters is", "at most 100")),
    ],
)
def test_a_check_that_fails_names_figure_limit_and_value(
    line: str, words: tuple[str, ...], cli: Cli, project: Path, files: Files
) -> None:
    edit(project, line, words[0])
    before = files()
    ran = cli("build", project)
    assert ran.code == 5
    assert all(word in ran.err for word in words[1:]), ran.err
    assert files() == before


def test_old_outputs_stay_when_a_check_fails(project: Path, files: Files) -> None:
    build_project(project)
    before = {name: (project.parent / name).read_bytes() for name in files() if (project.parent / name).is_file()}
    edit(project, "ratio=0.5", "ratio=0.9")
    edit(project, "max_error = 0.9", "max_error = 0.0001")
    with pytest.raises(CheckFailed) as caught:
        build_project(project)
    [check] = caught.value.checks
    assert (check.figure, check.limit, check.holds) == ("relative error", 0.0001, False)
    (project.parent / "secateur.toml").write_bytes(before["secateur.toml"])
    assert {name: (project.parent / name).read_bytes() for name in before} == before
    assert files() == before.keys() | {"out"}


def test_what_is_required_of_engines(cli: Cli, with_engine: Path, files: Files) -> None:
    before = files()
    edit(with_engine, "min_cosine = 0.1", 'require_precision = "int8"')
    ran = cli("build", with_engine)
    assert (ran.code, files()) == (5, before)
    assert "int8 is required, but no node" in ran.err
    edit(with_engine, 'require_precision = "int8"', "require_sparse = true")
    ran = cli("build", with_engine)
    assert (ran.code, files()) == (5, before)
    assert "is 2:4" in ran.err
    edit(with_engine, "require_sparse = true", 'max_bytes = "1 kB"')
    ran = cli("build", with_engine)
    assert (ran.code, files()) == (5, before)
    assert "bytes of out/small.engine is" in ran.err


def test_codes_of_other_failures(cli: Cli, with_engine: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files()
    edit(with_engine, "{ x = ", "{ y = ")
    assert cli("build", with_engine).code == 4
    edit(with_engine, "{ y = ", "{ x = ")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert cli("build", with_engine).code == 3
    (with_engine.parent / "calib.npz").unlink()
    assert cli("build", with_engine).code == 1
    assert files() == before - {"calib.npz"}


def test_latency_on_a_gpu_that_is_not_there(cli: Cli, with_engine: Path, files: Files) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    before = files()
    edit(with_engine, "min_cosine = 0.1", 'max_latency_ms = 100\nlatency_on = "engine"')
    ran = cli("build", with_engine)
    assert (ran.code, files()) == (3, before)
    assert "no CUDA device" in ran.err


def test_latency_on_onnxruntime(project: Path) -> None:
    edit(project, "min_cosine = 0.1", "max_latency_ms = 1e6")
    report = build_project(project)
    [check] = [one for one in report.checks if one.figure.startswith("latency")]
    assert 0 < check.value < 1e6
    again = build_project(project)
    assert again.checks == report.checks  # measured once, while nothing changes


def test_engines_of_a_model_that_is_left_as_it_is(with_engine: Path, files: Files) -> None:
    with_engine.write_text('version = 1\n[model]\npath = "model.onnx"\n' + ENGINE)
    before = files()
    assert built(with_engine) == {"engine out/small.engine": True}
    assert files() - before == {"out", "out/small.engine", "out/small.engine.json", MEMORY}


def test_commands_are_printed_and_nothing_is_built(cli: Cli, project: Path, model: Path, files: Files) -> None:
    project.write_text(PLAIN + ENGINE)
    before = files()
    ran = cli("build", project, "--print-command")
    assert ran.code == 0
    assert f"tensorrt_rtx --onnx={project.parent / 'out/small.onnx'}" in ran.out
    ran = cli("build", model, "-o", "e", "--print-command", "--shape", "x=1x3x8x8", "--json")
    [line] = ran.json["commands"]
    assert line["polygraphy"].startswith("POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy convert")
    assert files() == before


def test_stopped_builds_leave_nothing(project: Path, files: Files) -> None:
    # Everything is made and nothing is published when the signal comes.
    code = (
        "import os, signal, sys, secateur.project as p\n"
        "from secateur.cli.main import main\n"
        f"p.measure = lambda *a: os.kill(os.getpid(), {int(signal.SIGTERM)}) or __import__('time').sleep(20)\n"
        "sys.exit(main(['build', sys.argv[1]]))\n"
    )
    before = files()
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", code, project], capture_output=True, text=True, check=False)
    assert ran.returncode == 143, ran.stderr
    assert time.perf_counter() - started < 20
    assert files() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = ", "is no TOML"),
        ("version = 1", "version = 2", "version: expected 1, found 2"),
        ("max_error", "max_eror", "no field 'checks.max_eror'"),
        ("max_error = 0.9", "max_error = -1", "checks.max_error: expected greater than or equal to 0, found -1"),
        ('path = "model.onnx"', "", "'model.path' is missing"),
        ('passes = "prune{ratio=0.5}"', "", "expected one of `passes` and `file`"),
        ('passes = "prune{ratio=0.5}"', 'passes = "prone"', "prone"),
        ('[data]\npath = "calib.npz"\nlimit = 8', "", "checks are measured on data"),
        ("macs = 0.9", 'bytes = "much"', "'much' is no amount"),
        ("out/small.onnx", "model.onnx", "over the model"),
        ("out/small.onnx", "model.onnx/small.onnx", "is not a folder"),
    ],
)
def test_build_files_that_cannot_be(old: str, new: str, words: str, cli: Cli, project: Path, files: Files) -> None:
    edit(project, old, new)
    before = files()
    ran = cli("build", project)
    assert ran.code == 1
    assert words in ran.err
    assert files() == before


def test_mistakes_on_the_command_line(cli: Cli, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.parent)
    assert cli("build", "--json").code == 0  # secateur.toml lies here
    assert cli("build", project, "--refit").code == 2
    assert cli("build", "model.onnx").code == 2
    assert cli("build", "model.onnx", "-o", "e", "--force").code == 2
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    ran = cli("build")
    assert (ran.code, "secateur.toml" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("text", "value"), [("4000000", 4e6), ("4 MB", 4e6), ("1GiB", 1 << 30), ("0.5", 0.5), (3, 3.0), ("2k", 2000.0)]
)
def test_amounts(text: str, value: float) -> None:
    assert amount_of(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "4 MBit", "1.5", "0"])
def test_numbers_of_bytes_that_are_none(text: str) -> None:
    with pytest.raises(TextError):
        bytes_of(text)


def test_limits_hold_at_the_limit() -> None:
    figures = Figures(macs=50, parameters=10, bytes=100, dense={"macs": 100, "parameters": 10, "bytes": 100}, error=0.5)
    file = BuildFile.model_validate(
        {"version": 1, "model": {"path": "m"}, "budget": {"macs": 0.5, "bytes": 100}, "checks": {"max_error": 0.5}}
    )
    found = verdicts(file.checks, file.budget, figures)
    assert [one.holds for one in found] == [True, True, True]
    require(found, "here")


def test_families_of_failures() -> None:
    assert not issubclass(CheckFailed, BackendError)
