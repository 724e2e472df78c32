"""How the axes of each operator's inputs and outputs relate: one file for each family of operators."""

from __future__ import annotations

from importlib import import_module

FAMILIES = (
    *("pointwise", "contractions", "shapes", "pieces", "reductions", "norms", "spatial", "scatter", "quantized"),
    *("recurrent", "rotary", "attention", "attention_contrib", "experts"),
)


def load() -> None:
    """Enters all rules into the table."""
    for family in FAMILIES:
        import_module(f"{__name__}.{family}")
