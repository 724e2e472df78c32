"""Random graphs of everything that cuts, joins, regroups and repeats axes: what holds of pruning any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from helpers.mask_oracle import analyse, choose, difference, free, masked, pruned, run
from helpers.random_nets import RandomNet
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph
from secateur.ir.dims.algebra import Dim, Indices, Layout, expand, find, indices, leaves, size_of
from secateur.ir.dims.analysis import Dimensions

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(4, 24)
SHARES = st.sampled_from([0.0, 0.25, 0.5])


def _choices(graph: Graph, share: float, seed: int, *, exact: bool = True) -> dict[int, Indices]:
    random = np.random.default_rng(seed)
    sizes = [group.size for group in free(analyse(graph), exact=exact)]
    return {number: choose(size, share, random) for number, size in enumerate(sizes)}


def _weights(graph: Graph) -> dict[str, bytes]:
    return {value.name: value.const.numpy().tobytes() for value in graph.constants() if value.const is not None}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(SEEDS, STEPS, SHARES)
def test_removing_units_equals_masking_them(seed: int, steps: int, share: float) -> None:
    net = RandomNet(seed, steps).net
    kept = _choices(net.graph, share, seed)
    wanted, found = run(masked(net.graph, kept), net.feeds), run(pruned(net.graph, kept), net.feeds)
    assert difference(wanted, found) < 1e-4


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, STEPS)
def test_what_is_inexact_can_be_removed_too(seed: int, steps: int) -> None:
    net = RandomNet(seed, steps).net
    kept = _choices(net.graph, 0.5, seed, exact=False)
    if kept:
        before, after = run(net.graph, net.feeds), run(pruned(net.graph, kept, exact=False), net.feeds)
        assert {name: array.shape for name, array in before.items()} == {
            name: array.shape for name, array in after.items()
        }


def _two_steps(
    kept: Mapping[int, Indices], sizes: list[int], seed: int
) -> Iterator[tuple[dict[int, Indices], dict[int, Indices]]]:
    """Splits a removal in two: by groups, and by units of each group. The second is in the numbering after the first.

    Two units of each group stay in between, so that it is still a group.
    """
    random = np.random.default_rng(seed)
    first = {number: some for number, some in kept.items() if random.random() < 0.5 and len(some) > 1}
    yield first, {number: some for number, some in kept.items() if number not in first}
    half: dict[int, Indices] = {}
    rest: dict[int, Indices] = {}
    for number, some in kept.items():
        gone = np.setdiff1d(np.arange(sizes[number]), some)
        back = gone[random.random(len(gone)) < 0.5] if len(some) > 1 else gone
        half[number] = np.union1d(some, back)
        rest[number] = np.searchsorted(half[number], some)
    yield half, rest


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, STEPS, SHARES)
def test_removal_in_two_steps_equals_removal_in_one(seed: int, steps: int, share: float) -> None:
    net = RandomNet(seed, steps).net
    kept = _choices(net.graph, share, seed)
    sizes = [group.size for group in free(analyse(net.graph))]
    wanted = pruned(net.graph, kept)
    for first, second in _two_steps(kept, sizes, seed):
        found = pruned(pruned(net.graph, first), second)
        assert _weights(found) == _weights(wanted)
        one, other = run(wanted, net.feeds), run(found, net.feeds)
        assert all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SEEDS, STEPS)
def test_the_order_of_removals_does_not_matter(seed: int, steps: int) -> None:
    net = RandomNet(seed, steps).net
    kept = {number: some for number, some in _choices(net.graph, 0.25, seed).items() if len(some) > 1}
    wanted = pruned(net.graph, kept)
    graph = net.graph
    for number in np.random.default_rng(seed).permutation(sorted(kept)):
        graph = pruned(graph, {int(number): kept[int(number)]})
    assert _weights(graph) == _weights(wanted)


def _check(dim: Dim) -> None:
    """The sizes of the parts make up the size of the whole."""
    dim = find(dim)
    assert not (dim.factors and dim.terms)
    if dim.factors:
        assert size_of(map(find, dim.factors)) == dim.size
    if dim.terms:
        assert sum(find(term).size or 0 for term in dim.terms) == dim.size
    for part in dim.factors or dim.terms:
        _check(part)


def _depth(layout: Layout, leaf: Dim) -> int:
    """How many factors of one product a leaf is in, at most."""
    factors = [find(dim) for dim in expand(layout)]
    return sum(1 if dim is leaf else max((_depth((term,), leaf) for term in dim.terms), default=0) for dim in factors)


def _axes(found: Dimensions) -> Iterator[tuple[Layout, int]]:
    for place, layouts in found.layouts.items():
        value = getattr(place, "op", None)
        one = place if value is None else place.op.inputs[place.port]  # type: ignore[union-attr]
        shape = found.known.shape(one)  # type: ignore[arg-type]
        for axis, layout in enumerate(layouts):
            assert shape is not None
            size = shape[axis]
            assert isinstance(size, int)
            yield layout, size


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, STEPS)
def test_every_index_of_an_axis_is_in_one_unit_of_each_of_its_factors(seed: int, steps: int) -> None:
    for layout, size in _axes(analyse(RandomNet(seed, steps).net.graph)):
        for dim in layout:
            _check(dim)
        assert size_of(layout) == size
        assert indices(layout, {}).tolist() == list(range(size))
        covered = np.zeros(size, bool)
        for leaf in set(leaves(layout)):
            units = [
                np.setdiff1d(np.arange(size), indices(layout, {leaf: np.delete(np.arange(leaf.size or 0), unit)}))
                for unit in range(leaf.size or 0)
            ]
            assert all(len(unit) for unit in units)
            touched = np.bincount(np.concatenate(units), minlength=size)
            assert touched.max() <= _depth(layout, leaf)
            covered |= touched > 0
        assert covered.all() or not layout


def test_a_graph_without_anything_to_prune_is_left_alone() -> None:
    net = RandomNet(1, 4).net
    before = _weights(net.graph)
    assert _weights(pruned(net.graph, {})) == before


@pytest.mark.parametrize("seed", [49, 107, 1242, 1928, 1971, 2168, 2389, 4642])
def test_graphs_that_once_failed(seed: int) -> None:
    """Slices with a stride that take one index; sums that share terms with what they are the same as."""
    net = RandomNet(seed, 4 + seed % 14).net
    kept = _choices(net.graph, 0.25, seed)
    wanted, found = run(masked(net.graph, kept), net.feeds), run(pruned(net.graph, kept), net.feeds)
    assert difference(wanted, found) < 1e-4
