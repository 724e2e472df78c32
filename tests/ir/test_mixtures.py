"""Experts go with all that is theirs: the model without them computes what it did when nothing went to them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from helpers.graphs import random_feeds
from helpers.mask_oracle import analyse, choices, difference, free, masked, pruned, run
from helpers.mixtures import EXPERTS, MIXTURES, STUCK, TAKEN, soft, starve

from secateur.ir import Graph
from secateur.ir.build import emit
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import RefusedError


def _experts(graph: Graph) -> Group:
    (found,) = [group for group in groups(analyse(graph)) if group.size == EXPERTS]
    return found


def _without(graph: Graph, kept: list[int]) -> Graph:
    """A copy that has these experts only."""
    copy = graph.clone()
    found = analyse(copy)
    (group,) = [group for group in groups(found) if group.size == EXPERTS]
    shrink(copy, found, {group.dim: np.array(kept)})
    copy.verify()
    return copy


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_without_some_experts_is_one_that_starves_them(name: str) -> None:
    graph = MIXTURES[name]()
    feeds = random_feeds(graph)
    dense, changed = run(graph, feeds), False
    fewest = 1 if "TopK" not in {op.op_type for op in graph.ops()} and name != "fused" else TAKEN
    for count in range(fewest, EXPERTS):
        for kept in list(combinations(range(EXPERTS), count))[count % 2 :: 4]:
            starved = graph.clone()
            starve(starved, _experts(starved), sorted({*range(EXPERTS)} - {*kept}))
            wanted, found = run(starved, feeds), run(_without(graph, list(kept)), feeds)
            assert difference(wanted, found) < 1e-5, kept
            changed = changed or difference(dense, found) > 1e-3
    assert changed


def test_experts_that_do_not_know_of_each_other_are_masked_exactly() -> None:
    graph = MIXTURES["exact"]()
    feeds = random_feeds(graph)
    for kept in choices([group.size for group in free(analyse(graph))]):
        assert difference(run(masked(graph, kept), feeds), run(pruned(graph, kept), feeds)) < 1e-5


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_known_by_what_is_done_with_them(name: str) -> None:
    graph = MIXTURES[name]()
    found = analyse(graph)
    kinds = {group.name: Roles(found).kind(group) for group in groups(found)}
    group = _experts(graph)
    assert [one for one, kind in kinds.items() if kind is Kind.EXPERTS] == [group.name] == ["router:1"]
    assert group.pin is None
    assert (group.inexact is None) == (name == "exact")


@pytest.mark.parametrize("name", MIXTURES)
def test_ops_weights_and_constants_of_an_expert_go_with_it(name: str) -> None:
    graph = MIXTURES[name]()
    group, short = _experts(graph), _without(graph, [0, 1, 3, 4])
    # An expert is worth what the group says of it, and leaves nothing behind that nobody reads.
    assert _parameters(graph) - _parameters(short) == group.parameters or name == "all but one"
    assert all(any(short.is_used(value) for value in op.outputs if value) for op in short.ops())
    assert all(short.is_used(value) for value in short.constants())
    if name not in ("stacked", "clipped", "by columns", "batched", "fused"):
        assert not [value.name for value in short.constants() if value.name.startswith(("up2", "down2"))]
    assert {value.name for value in short.values()} <= {value.name for value in graph.values()}
    assert [value.name for value in short.outputs] == [value.name for value in graph.outputs]


def _parameters(graph: Graph) -> int:
    return sum(value.const.size for value in graph.constants() if value.const and value.const.dtype.is_float)


@pytest.mark.parametrize("name", STUCK)
def test_what_does_not_vanish_stays_with_its_reason(name: str) -> None:
    make, reason = STUCK[name]
    graph = make()
    group = _experts(graph)
    assert group.pin is not None and reason in group.pin
    with pytest.raises(RefusedError, match="cannot be pruned"):
        _without(graph, [0, 1])


@pytest.mark.parametrize("name", MIXTURES)
def test_no_fewer_than_are_taken(name: str) -> None:
    graph = MIXTURES[name]()
    taken = {op.op_type for op in graph.ops()} & {"TopK", "MoE"}
    if not taken:
        assert _without(graph, [3])
        return
    with pytest.raises(RefusedError, match=rf"router:1.*{taken.pop()}.* 2 .*of what would be 1"):
        _without(graph, [3])


@pytest.mark.parametrize("name", ["sum_2", "sum_3"])
def test_all_but_one_may_be_more_than_may_go(name: str) -> None:
    """Each expert vanishes alone; of those that are summed up there, all together, nothing may be left."""
    graph = soft()
    total = graph[name]  # of the first four, or of all
    (op,) = graph.consumers(total)
    shifted = emit(graph, "Exp", [total], outputs=["shifted"]).output
    graph.set_inputs(op, [shifted if value is total else value for value in op.inputs])
    group = _experts(graph)
    if name == "sum_2":
        assert group.pin is not None and "Exp" in group.pin
    else:
        assert group.pin is None
