"""The deploy example as a new user would try it, on a tiny model: make, cmake, the gate; and what can't run here."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from helpers.face_models import make_graph

from secateur.build_file import load_build_file

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "deploy"
TINY = """
version = 1
[model]
path = "tiny.onnx"
output = "out/tiny.onnx"
[recipe]
passes = "prune{ratio=0.5}"
[data]
path = "data/calib.npz"
[[engine]]
output = "out/tiny.engine"
compute_capability = "8.9"
optimization_level = 0
[checks]
max_error = 0.9
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A copy of the example with a model and data of a second."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path / "deploy"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("data", "out", "build", "report.json", ".secateur*"))
    make_graph(batch=4).save(folder / "tiny.onnx")
    (folder / "data").mkdir()
    np.savez(folder / "data/calib.npz", x=np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    (folder / "tiny.toml").write_text(TINY)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def make(folder: Path, *targets: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "make", f"PYTHON={sys.executable}", "BUILD_FILE=tiny.toml", "BASELINE=tiny.json", *targets)


def test_make_builds_once_gates_and_fails_where_it_got_worse(here: Path) -> None:
    first = make(here, "baseline")
    assert first.returncode == 0, first.stderr
    assert (here / "out/tiny.engine.json").exists()
    baseline = json.loads((here / "tiny.json").read_text())
    baseline["error"] /= 2
    (here / "tiny.json").write_text(json.dumps(baseline))
    worse = make(here, "gate")
    assert worse.returncode != 0
    assert "worse: error: " in worse.stderr
    report = json.loads((here / "report.json").read_text())
    assert [step["built"] for step in report["steps"]] == [False, False]
    (here / "tiny.toml").write_text(TINY.replace("max_error = 0.9", "max_error = 1e-9"))
    failed = make(here, "gate")
    assert failed.returncode != 0
    assert "relative error is" in failed.stderr
    assert json.loads((here / "report.json").read_text()) == report
    assert not [path for path in here.rglob(".secateur-*") if path.is_dir()]


def test_make_has_a_rule_for_any_model(here: Path) -> None:
    ran = make(here, "tiny.engine", "FLAGS=--compute-capability 8.9 --optimization-level 0")
    assert ran.returncode == 0, ran.stderr
    assert "is up to date" in make(here, "tiny.engine").stdout


def test_cmake_builds_engines_and_knows_when_they_are_old(here: Path) -> None:
    assert run(here, "cmake", "-B", "build", "-DMODEL=tiny.onnx", "-DSHAPES=").returncode == 0
    first = run(here, "cmake", "--build", "build")
    assert first.returncode == 0, first.stderr
    engine = here / "build/resnet.engine"
    made = engine.stat().st_mtime_ns
    assert run(here, "cmake", "--build", "build").returncode == 0
    assert engine.stat().st_mtime_ns == made
    (here / "tiny.onnx").write_bytes(b"no model")
    failed = run(here, "cmake", "--build", "build")
    assert failed.returncode != 0
    assert "tiny.onnx" in failed.stderr
    assert engine.stat().st_mtime_ns == made


def test_cmake_says_what_is_missing(here: Path) -> None:
    lists = here / "CMakeLists.txt"
    lists.write_text(lists.read_text().replace("OUTPUT resnet.engine", ""))
    ran = run(here, "cmake", "-B", "build")
    assert ran.returncode != 0
    assert "OUTPUT is missing" in ran.stderr


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_gate", FOLDER / "gate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        ({"error": 0.1}, {"error": 0.1}, None),
        ({"error": 0.104}, {"error": 0.1}, None),
        ({"error": 0.106}, {"error": 0.1}, "error: 0.106, was 0.1"),
        ({"cosine": 0.99}, {"cosine": 0.999}, "cosine: 0.99"),
        ({"cosine": 1.0}, {"cosine": 0.9}, None),
        ({"engine a, bytes": 120}, {"engine a, bytes": 100}, "engine a, bytes: 120"),
        ({"latency onnxruntime, ms": 1.2}, {"latency onnxruntime, ms": 1.0}, "latency"),
        ({}, {"error": 0.1}, "only in the baseline"),
        ({"macs": 1}, {}, "only in the report"),
    ],
)
def test_the_gate(now: dict[str, float], before: dict[str, float], words: str | None, gate: ModuleType) -> None:
    lines = list(gate.worse(now, before))
    assert (lines == []) if words is None else words in lines[0]


def test_the_build_file_is_one_and_the_baseline_keeps_its_limits() -> None:
    file = load_build_file(FOLDER / "secateur.toml")
    baseline = json.loads((FOLDER / "baseline.json").read_text())
    assert file.checks.max_error is not None and baseline["error"] <= file.checks.max_error
    assert file.checks.min_cosine is not None and baseline["cosine"] >= file.checks.min_cosine
    assert all(baseline[f"engine {one.output}, bytes"] <= int(file.checks.max_bytes or 0) for one in file.engine)


def instructions() -> list[tuple[str, str]]:
    """Of the first stage of the Dockerfile, in which all is built."""
    text = (FOLDER / "Dockerfile").read_text().split("\n\nFROM busybox")[0]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def workflow() -> list[str]:
    """The commands of the workflow, each with the folder that it runs in being the example's."""
    [job] = yaml.safe_load((FOLDER / "ci.yml").read_text())["jobs"].values()
    assert ROOT / job["defaults"]["run"]["working-directory"] == FOLDER
    return [step["run"] for step in job["steps"] if "run" in step]


def check_command(command: str, folder: Path) -> None:
    """Passes when what a command names is there."""
    program, *words = shlex.split(command)
    if program == "pip":
        path, _, extras = words[-1].removesuffix("]").partition("[")
        assert (folder / path / "pyproject.toml").is_file()
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (folder / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program in ("python", "secateur")
        assert (folder / words[-1]).is_file()


def test_the_commands_of_the_image_and_of_the_workflow_name_what_is_there() -> None:
    folder, commands = Path("/"), 0
    for word, rest in instructions():
        if word == "WORKDIR":
            folder = Path(rest)
        elif word == "RUN":
            check_command(rest, ROOT / folder.relative_to("/src"))
            commands += 1
    for command in workflow():
        check_command(command, FOLDER)
    assert (commands, len(workflow())) == (3, 2)


def test_the_image_gets_all_sources_and_nothing_that_was_built() -> None:
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    needed = [*packages, "README.md", "LICENSE", "examples/fashion_mnist/resnet.onnx", "examples/deploy/secateur.toml"]
    parts = {part for path in needed for part in accumulate(Path(path).parts, lambda one, other: f"{one}/{other}")}
    assert not [part for part in parts for line in ignored if fnmatch(part, line.removeprefix("**/"))]
    assert {"examples/deploy/out", "examples/deploy/.secateur-build.json"} <= set(ignored)
