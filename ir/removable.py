"""Blocks that can be taken out whole: residual branches `y = x + f(x)`, where y becomes x, and layers made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secateur.ir.layers import layers, projections
from secateur.ir.residual_blocks import Blocks, Part, Removable, is_composite
from secateur.ir.rules.known import Known

__all__ = ["Part", "Removable", "is_composite", "removable_blocks"]


def removable_blocks(known: Known) -> list[Removable]:
    """The residual branches of a graph and the layers that they form, in the order in which they end.

    Nothing but the graph is asked: no names, no hints, no model types. A branch starts from one term of a sum and ends
    with another; what else it reads (masks, rotary tables, an encoder's output) is computed without the first. Blocks
    that look removable but are not are there too, with the reason in `pin`: a shortcut that is a projection, an inner
    value that is read elsewhere. Bodies of If, Loop and Scan are not looked into.
    """
    finder = Blocks(known)
    branches = finder.branches()
    found = []
    for branch, part in branches:
        beside = [other for other, _ in branches if other.total is branch.total and other is not branch]
        found.append(finder.block(branch, part, beside))
    found += layers(finder, found)
    found += projections(finder, {branch.total for branch, _ in branches})
    turn = finder.sums.order
    found.sort(key=lambda block: (max(turn[branch.total] for branch in block.branches), len(block.branches)))
    return _named_apart(found)


def _named_apart(found: Sequence[Removable]) -> list[Removable]:
    names: set[str] = set()
    apart = []
    for block in found:
        name = block.name if block.name not in names else f"{block.entry.name}..{block.name}"
        names.add(name)
        apart.append(replace(block, name=name))
    return apart
