"""Two ways to find what goes together, the algebra of dimensions and masks run to a fixed point, say the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.mask_closure import MaskClosure, Unit, check_unit
from helpers.structures import structures
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir.dims.algebra import leaves, owners
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group, groups
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.facts import dims

MODELS = {**structures(), **zoo("small")}


def _unit(found: Dimensions, group: Group, index: int) -> Unit:
    """All that goes with one index of a group: uses of constants and values."""
    unit: dict[object, dict[int, list[int]]] = {}
    for place, layouts in found.layouts.items():
        for axis, layout in enumerate(layouts):
            if group.dim in leaves(layout) and all(dim.size is not None for dim in layout):
                key = (place.op, place.port) if isinstance(place, Use) else place
                gone = np.flatnonzero(owners(layout, group.dim) == index).tolist()
                if gone:
                    unit.setdefault(key, {})[axis] = gone
    return unit  # type: ignore[return-value]


@pytest.mark.parametrize("name", MODELS)
def test_units_agree(name: str) -> None:
    # As `compress` would prune it: constants folded, so that fewer sizes are unknown.
    graph = run_pipeline(MODELS[name](), parse_pipeline("clean"), Context(runner=OnnxRuntimeRunner)).graph
    found, closure = dims(graph), MaskClosure.of(graph, feeds=random_feeds(graph))
    # What goes with an expert that is a branch of ops is told by experiment, in test_experts.
    free = [group for group in groups(found) if group.pin is None and group.dim not in found.branches]
    wrong = []
    experts = [group for group in free if group.dim in found.experts]
    for group in dict.fromkeys([*free[:: max(1, len(free) // 6)], *experts]):
        # A share among experts is a softmax over them; the mask oracle has the last word on those.
        tolerate = ["softmax"] if group in experts else []
        unit = _unit(found, group, group.size // 2)
        if (reason := check_unit(closure, unit, tolerate=tolerate, most=3)) is not None:
            wrong.append(f"{group.name}: {reason}")
    assert not wrong
