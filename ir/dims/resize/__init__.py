"""What an op spells of sizes, in attributes and shape constants, and how that follows when dimensions shrink."""

from __future__ import annotations

from importlib import import_module

from secateur.ir.dims.resize.table import ResizeRule, Resizing, resize_rules

FAMILIES = ("convolutions", "shapes", "pieces", "attention", "counts")

for family in FAMILIES:
    import_module(f"{__name__}.{family}")

__all__ = ["ResizeRule", "Resizing", "resize_rules"]
