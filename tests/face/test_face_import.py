"""`import secateur` is quick and loads nothing; every public name is there when it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import secateur

HEAVY = set("numpy networkx scipy onnx onnxruntime torch matplotlib pydantic rich typer yaml".split())


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = json.loads(_python("import secateur, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_importing_the_package_is_quick() -> None:
    code = "import time; start = time.perf_counter(); import secateur; print(time.perf_counter() - start)"
    assert min(float(_python(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize("heavy", ["torch", "onnxruntime", "matplotlib", "tensorrt_rtx"])
def test_inspecting_a_model_does_not_load_what_it_does_not_need(heavy: str) -> None:
    code = "import secateur, sys; secateur.inspect; secateur.compress; secateur.build; print(*sys.modules)"
    assert heavy not in _python(code).split()


@pytest.mark.parametrize("name", secateur.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(secateur, name)
    assert name in dir(secateur)
    assert name == "__version__" or found.__doc__
    # A module that is called as one of its names would hide it as soon as it is imported.
    assert type(found).__name__ != "module"


def test_the_command_line_loads_no_models_before_it_has_one() -> None:
    loaded = json.loads(_python("import secateur.cli.main, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY - {"typer", "rich"})


def test_packages_are_there_without_importing_them() -> None:
    assert (
        _python("import secateur as sc; print(sc.ir.Graph is sc.Graph, sc.passes.base.Pass is sc.Pass)")
        == "True True\n"
    )


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = secateur.nothing
    assert not hasattr(secateur, "prune")


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert secateur.__version__ == version("secateur")
