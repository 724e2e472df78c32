"""Writes docs/operators.md from the rule tables: `python docs/generate.py`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

from secateur.backends.torch import torch_rules
from secateur.ir.dims.analysis import dimensions  # noqa: F401  (loads the rules)
from secateur.ir.dims.axes import dims_rules
from secateur.ir.dims.boundaries import BOUNDARIES
from secateur.ir.dims.carrying import carrying_rules
from secateur.ir.dims.resize import resize_rules
from secateur.ir.dims.vanish import vanish_rules
from secateur.ir.rules.cost import cost_rules
from secateur.ir.rules.table import RuleTable
from secateur.ir.rules.weights import weight_rules
from secateur.passes.cleanup.identity_rules import identity_rules
from secateur.passes.importing.import_quantized import import_rules
from secateur.passes.precision.rules import precision_rules

PATH = Path(__file__).with_name("operators.md")
TABLES: Mapping[str, RuleTable[object]] = {
    "dimensions": dims_rules,
    "resizing": resize_rules,
    "zeros": vanish_rules,
    "scales": carrying_rules,
    "weights": weight_rules,
    "cost": cost_rules,
    "identities": identity_rules,
    "torch": torch_rules,
    "import": import_rules,
    "16 bits": precision_rules,
}
_HEAD = """\
# Operators

Written by `python docs/generate.py` from the rule tables; do not edit. What the package knows of operators is data:
one table for each question, keyed by domain and operator. An operator that a table lacks is left alone: it is a
boundary for dimensions, costs nothing that is counted, has no weight that is known, and cannot be evaluated in torch.
"""


def text() -> str:
    """The page."""
    lines = [_HEAD, "| table | question | operators |", "|---|---|---|"]
    lines += [f"| {name} | {table.question} | {len(list(table))} |" for name, table in TABLES.items()]
    return "\n".join([*lines, "", *_rules(), "", *_boundaries(), ""])


def _rules() -> list[str]:
    names = sorted({op for table in TABLES.values() for op in table}, key=lambda op: ("::" in op, op.lower()))
    others = [name for name in TABLES if name != "dimensions"]
    head = ["## Rules", "", f"| operator | how its axes relate | {' | '.join(others)} |"]
    head.append("|---|---|" + "---|" * len(others))
    rows = []
    for name in names:
        marks = " | ".join("x" if name in TABLES[other] else "" for other in others)
        rows.append(f"| {name} | {_summary(name)} | {marks} |")
    return [*head, *rows]


def _summary(name: str) -> str:
    rule = dims_rules.find(name)
    if rule is None:
        return f"boundary: {BOUNDARIES[name]}" if name in BOUNDARIES else "boundary"
    return (inspect.getdoc(rule) or "").partition("\n")[0].replace("|", "\\|")


def _boundaries() -> list[str]:
    head = ["## Boundaries", "", "What these read and make stays as it is.", ""]
    head += ["| operator | because it |", "|---|---|"]
    names = sorted(BOUNDARIES, key=lambda op: ("::" in op, op))
    return [*head, *(f"| {name} | {BOUNDARIES[name]} |" for name in names)]


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
