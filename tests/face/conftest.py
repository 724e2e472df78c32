"""A model on disk, data for it, and the command line in process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.face_models import Cli, Ran, make_graph

from secateur.ir import Graph


@pytest.fixture
def graph() -> Graph:
    return make_graph()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    make_graph().save(path)
    return path


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    path = tmp_path / "calib.npz"
    np.savez(path, x=np.random.default_rng(1).normal(size=(24, 3, 8, 8)).astype(np.float32))
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `secateur` in this process, exactly as its entry point does."""
    from secateur.cli.main import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def files(tmp_path: Path) -> Callable[[], set[str]]:
    """What lies in the folder now, hidden files and temporaries too."""
    return lambda: {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
