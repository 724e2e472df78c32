"""What changes a model: passes, the text that names them, and the manager that runs and checks them."""

from __future__ import annotations

from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.facts import Fact, Facts, fact
from secateur.passes.manager import Manager, Result, run_pipeline
from secateur.passes.manifest import Manifest
from secateur.passes.pipeline import make_pass, parse_pipeline, print_pipeline
from secateur.passes.report import Entry, Report

__all__ = [
    "Context",
    "Effect",
    "Entry",
    "Facet",
    "Fact",
    "Facts",
    "Manager",
    "Manifest",
    "Pass",
    "Report",
    "Result",
    "fact",
    "make_pass",
    "parse_pipeline",
    "print_pipeline",
    "run_pipeline",
]
