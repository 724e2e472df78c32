"""The house rules, checked on every file: who imports whom, how large files grow, what is packaged."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "ir": "secateur.ir",
    "calib": "secateur.calib",
    "passes": "secateur.passes",
    "backends": "secateur.backends",
}
MAY_IMPORT = {
    "ir": {"ir"},
    "backends": {"backends", "ir"},
    "calib": {"calib", "ir"},
    "passes": {"passes", "calib", "ir"},
    "face": {"face", "passes", "calib", "backends", "ir"},
}
LAZY = {"torch", "matplotlib", "tensorrt", "tensorrt_rtx", "onnxruntime", "onnx_graphsurgeon", "optuna", "dask"}
LONGEST = 500

MODULES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))
SOURCES = sorted({*MODULES, *(path for d in ("tests", "benchmarks", "examples") for path in (ROOT / d).rglob("*.py"))})


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, *, at_module_level: bool = False) -> Iterator[str]:
    """Every module that a file imports by name, absolute; type-checking blocks aside where only loading counts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _loaded(tree) if at_module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            if node.module != "secateur":  # which of its packages is read, the names say
                yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is loaded: not the bodies of functions, not `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _loaded(child)


def folder_of(module: str) -> str | None:
    """Which folder of the house a module lies in; None for other packages."""
    if module != "secateur" and not module.startswith("secateur."):
        return None
    for folder, package in PACKAGES.items():
        if module == package or module.startswith(f"{package}."):
            return folder
    return "face"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0]
    found = {module: folder_of(module) for module in imports(path)}
    wrong = {module for module, folder in found.items() if folder and folder not in MAY_IMPORT[home]}
    assert not wrong, f"{name_of(path)} is in {home}/ and must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_runtimes_are_imported_at_home_only(path: Path) -> None:
    tops = {module.partition(".")[0] for module in imports(path)}
    name = name_of(path)
    if not name.startswith("ir/onnx_"):
        assert not tops & {"onnx", "onnx_graphsurgeon"}
    if not name.startswith("backends/onnxruntime"):
        assert "onnxruntime" not in tops
    if not name.startswith("backends/tensorrt/"):
        assert not tops & {"tensorrt", "tensorrt_rtx"}
    if not name.startswith("backends/torch/") and name != "ir/onnx_torch.py":
        assert "torch" not in tops


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_load_when_they_are_needed(path: Path) -> None:
    tops = {module.partition(".")[0] for module in imports(path, at_module_level=True)}
    assert not tops & LAZY


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_modules_do_not_import_in_circles() -> None:
    import networkx as nx

    names = {_module(path): path for path in MODULES}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in names.items():
        used = {module for module in imports(path, at_module_level=True) if module in names}
        # `from package import module` is about the module; its package is loaded before either of them anyway.
        used -= {module.rpartition(".")[0] for module in used} | {name}
        graph.add_edges_from((name, module) for module in used)
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


def _module(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts[0] = PACKAGES.get(parts[0], "secateur")
    return ".".join(part for part in parts if part != "__init__")


def test_torch_loads_in_one_place() -> None:
    """Rules use the module that `lazy` gives them, so that they can be listed without torch."""
    found = [path for path in MODULES if "backends/torch/" in name_of(path) and "torch" in _runtime_imports(path)]
    assert not found
    assert 'import_module("torch")' in (ROOT / "backends/torch/lazy.py").read_text(encoding="utf-8")


def _runtime_imports(path: Path) -> set[str]:
    """What a file imports when it is loaded or one of its functions runs: not what type checkers read only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {id(node) for outer in ast.walk(tree) if _is_for_types(outer) for node in ast.walk(outer)}
    imported = [
        node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in hidden
    ]
    names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported]
    return {name.partition(".")[0] for name in names}


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_every_folder_is_packaged() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent for path in MODULES}
    for folder in folders:
        assert (folder / "__init__.py").is_file(), f"{name_of(folder)} has modules, but no __init__.py"
    assert {_module(folder / "__init__.py") for folder in folders} == set(setuptools["packages"])
    assert setuptools["package-dir"] == {"secateur": "face", **{package: name for name, package in PACKAGES.items()}}
    assert (ROOT / "face" / "py.typed").is_file()


@pytest.mark.parametrize("module", sorted(_module(path) for path in MODULES))
def test_every_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__doc__, f"{module} does not say what it is for"


def test_the_installed_package_has_every_module() -> None:
    import secateur

    found = {"secateur", *(one.name for one in pkgutil.walk_packages(secateur.__path__, "secateur."))}
    for package in PACKAGES.values():
        inside = importlib.import_module(package)
        found |= {package, *(one.name for one in pkgutil.walk_packages(inside.__path__, f"{package}."))}
    assert found >= {_module(path) for path in MODULES}
