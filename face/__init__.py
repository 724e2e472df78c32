"""Secateur: a compiler of graph passes that makes neural networks smaller and faster without retraining.

    import secateur as sc

    graph = sc.load("model.onnx")
    result = sc.compress(graph, "prune{ratio=0.5},quantize{format=int8}", data="calib.npz")
    result.graph.save("small.onnx")
    print(result.report)

Every name loads what it needs when it is first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.advising import SparsityAdvice, advise_sparsity
    from secateur.backends.tensorrt import BuildReport
    from secateur.building import build
    from secateur.calib.batches import Batch, Source
    from secateur.calib.sources import open_source
    from secateur.comparison import ComparisonReport, compare
    from secateur.compression import Result, compress
    from secateur.inspection import Inspection, inspect
    from secateur.ir import Graph, Op, Tensor, Value
    from secateur.ir.errors import PassError, SecateurError
    from secateur.ir.onnx_graphsurgeon import from_graphsurgeon, to_graphsurgeon
    from secateur.ir.onnx_read import load
    from secateur.ir.onnx_torch import from_torch
    from secateur.linting import LintReport, lint
    from secateur.measuring import KernelMeasurement, measure_kernels
    from secateur.mixing import mixed_source
    from secateur.passes.base import Pass
    from secateur.passes.manifest import Manifest
    from secateur.passes.pipeline import parse_pipeline
    from secateur.passes.sparsify.search import CriterionSearch, FoundCriterion
    from secateur.project import ProjectReport, build_project
    from secateur.recipes import Recipe
    from secateur.replaying import replay
    from secateur.reports import CompressionReport
    from secateur.searching import search_criterion
    from secateur.spending import SpendingAdvice, advise

__version__ = "0.1.0"

_HOMES = {
    "secateur.advising": ("SparsityAdvice", "advise_sparsity"),
    "secateur.backends.tensorrt": ("BuildReport",),
    "secateur.building": ("build",),
    "secateur.calib.batches": ("Batch", "Source"),
    "secateur.calib.sources": ("open_source",),
    "secateur.comparison": ("ComparisonReport", "compare"),
    "secateur.compression": ("Result", "compress"),
    "secateur.inspection": ("Inspection", "inspect"),
    "secateur.ir": ("Graph", "Op", "Tensor", "Value"),
    "secateur.ir.errors": ("PassError", "SecateurError"),
    "secateur.ir.onnx_graphsurgeon": ("from_graphsurgeon", "to_graphsurgeon"),
    "secateur.ir.onnx_read": ("load",),
    "secateur.ir.onnx_torch": ("from_torch",),
    "secateur.measuring": ("KernelMeasurement", "measure_kernels"),
    "secateur.mixing": ("mixed_source",),
    "secateur.linting": ("LintReport", "lint"),
    "secateur.passes.base": ("Pass",),
    "secateur.passes.manifest": ("Manifest",),
    "secateur.passes.pipeline": ("parse_pipeline",),
    "secateur.project": ("ProjectReport", "build_project"),
    "secateur.recipes": ("Recipe",),
    "secateur.replaying": ("replay",),
    "secateur.passes.sparsify.search": ("CriterionSearch", "FoundCriterion"),
    "secateur.reports": ("CompressionReport",),
    "secateur.searching": ("search_criterion",),
    "secateur.spending": ("SpendingAdvice", "advise"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_PACKAGES = frozenset({"backends", "calib", "ir", "passes"})

__all__ = [
    "Batch",
    "BuildReport",
    "ComparisonReport",
    "CompressionReport",
    "CriterionSearch",
    "FoundCriterion",
    "Graph",
    "Inspection",
    "KernelMeasurement",
    "LintReport",
    "Manifest",
    "Op",
    "Pass",
    "PassError",
    "ProjectReport",
    "Recipe",
    "Result",
    "SecateurError",
    "Source",
    "SparsityAdvice",
    "SpendingAdvice",
    "Tensor",
    "Value",
    "__version__",
    "advise",
    "advise_sparsity",
    "build",
    "build_project",
    "compare",
    "compress",
    "from_graphsurgeon",
    "from_torch",
    "inspect",
    "lint",
    "load",
    "measure_kernels",
    "mixed_source",
    "open_source",
    "parse_pipeline",
    "replay",
    "search_criterion",
    "to_graphsurgeon",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
