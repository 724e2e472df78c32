"""What rules of many families say alike: axes that agree where they are not one, and axes that are broadcast."""

from __future__ import annotations

from secateur.ir.dims.algebra import Layout
from secateur.ir.dims.axes import Axes, Layouts


def same(axes: Axes, *layouts: Layout) -> Layout:
    """Axes that are the same, or of size one; returns what they are."""
    found: Layout = ()
    for layout in layouts:
        if found and layout:
            axes.unify(found, layout)
        found = found or layout
    return found


def fit(axes: Axes, wide: Layouts, *narrow: Layouts) -> None:
    """Operands beside a wider one, aligned from the right; those of size one give way, and what sticks out stays."""
    for operand in narrow:
        for mine, theirs in zip(reversed(wide), reversed(operand), strict=False):
            same(axes, mine, theirs)
        for layout in operand[: max(0, len(operand) - len(wide))]:
            axes.pin(layout, "broadcasts to a higher rank")


def pin_all(axes: Axes, layouts: Layouts, reason: str) -> None:
    """No index of any of these axes may go."""
    for layout in layouts:
        axes.pin(layout, reason)
