"""Damaged models are refused in words, in time, and without bringing the process down (`tests/helpers/fuzz.py`)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers import fuzz

CASES = 600


def run(cases: int, seed: int) -> dict[str, int]:
    """In a process of its own, which a crash or a hang ends."""
    command = [sys.executable, "-X", "faulthandler", fuzz.__file__, "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("cases", "seed"), [(CASES, 0), pytest.param(5000, 1, marks=pytest.mark.slow)])
def test_damaged_models_are_refused_or_understood(cases: int, seed: int) -> None:
    if not fuzz.seeds():
        pytest.skip("there are no models to damage")
    found = run(cases, seed)
    assert sum(found.values()) == cases
    assert found.keys() <= {"graph", "ModelError", "GraphError"}
    assert min(found["graph"], found["ModelError"]) > cases // 5  # both ends are tested
