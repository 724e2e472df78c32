"""All graphs for operators, one family a file."""

from __future__ import annotations

from importlib import import_module

from helpers.operator_net import Case

FAMILIES = ("pointwise", "contractions", "shapes", "statistics", "transformers")

CASES: list[Case] = [
    case for family in FAMILIES for case in import_module(f"helpers.operator_cases_{family}").CASES.found
]
