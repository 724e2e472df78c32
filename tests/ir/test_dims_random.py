"""Random graphs of everything that cuts, joins, regroups and repeats axes: what holds of pruning any of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import pytest
from helpers.mask_oracle import analyse, choose, difference, free, masked, pruned, run
from helpers.random_nets import RandomNet
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir import Graph
from secateur.ir.dims.algebra import Dim, Indices, Layout, expand, find, indices, leaves, owners, size_of
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.dims.groups import Group
from secateur.ir.dims.shrink import shrink
from secateur.ir.errors import BackendError

Member: TypeAlias = tuple[Use, int, int]
"""An entry of an axis of a weight, as one op uses it."""

SEEDS = st.integers(0, 2**32 - 1)
STEPS = st.integers(4, 24)
SHARES = st.sampled_from([0.0, 0.25, 0.5])
BATCHES = st.sampled_from([None, "batch"])
"""Of known size, or not."""


def _choices(graph: Graph, share: float, seed: int, *, exact: bool = True) -> dict[int, Indices]:
    random = np.random.default_rng(seed)
    sizes = [group.size for group in free(analyse(graph), exact=exact)]
    return {number: choose(size, share, random) for number, size in enumerate(sizes)}


def _weights(graph: Graph) -> dict[str, bytes]:
    return {value.name: value.const.numpy().tobytes() for value in graph.constants() if value.const is not None}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(SEEDS, STEPS, SHARES, BATCHES)
def test_removing_units_equals_masking_them(seed: int, steps: int, share: float, batch: str | None) -> None:
    net = RandomNet(seed, steps, batch).net
    kept = _choices(net.graph, share, seed)
    wanted, found = run(masked(net.graph, kept), net.feeds), run(pruned(net.graph, kept), net.feeds)
    assert difference(wanted, found) < 1e-4


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, STEPS, BATCHES)
def test_what_is_inexact_can_be_removed_too(seed: int, steps: int, batch: str | None) -> None:
    net = RandomNet(seed, steps, batch).net
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
@given(SEEDS, STEPS, SHARES, BATCHES)
def test_removal_in_two_steps_equals_removal_in_one(seed: int, steps: int, share: float, batch: str | None) -> None:
    net = RandomNet(seed, steps, batch).net
    kept = _choices(net.graph, share, seed)
    sizes = [group.size for group in free(analyse(net.graph))]
    wanted = pruned(net.graph, kept)
    for first, second in _two_steps(kept, sizes, seed):
        found = pruned(pruned(net.graph, first), second)
        assert _weights(found) == _weights(wanted)
        one, other = run(wanted, net.feeds), run(found, net.feeds)
        assert all(np.array_equal(one[name], other[name]) for name in one)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SEEDS, STEPS, BATCHES)
def test_the_order_of_removals_does_not_matter(seed: int, steps: int, batch: str | None) -> None:
    net = RandomNet(seed, steps, batch).net
    kept = {number: some for number, some in _choices(net.graph, 0.25, seed).items() if len(some) > 1}
    wanted = pruned(net.graph, kept)
    graph = net.graph
    for number in np.random.default_rng(seed).permutation(sorted(kept)):
        graph = pruned(graph, {int(number): kept[int(number)]})
    assert _weights(graph) == _weights(wanted)


def _places(found: Dimensions, group: Group, index: int) -> frozenset[Member]:
    """The unit of an index: every entry of every axis of a weight that goes with it."""
    stays = {group.dim: np.delete(np.arange(group.size), index)}
    return frozenset(
        (occurrence.use, occurrence.axis, int(entry))
        for occurrence in group.weights
        for layout in [found.layouts[occurrence.use][occurrence.axis]]
        for entry in np.setdiff1d(np.arange(size_of(layout) or 0), indices(layout, stays))
    )


def _closure(found: Dimensions, group: Group, members: Iterable[Member]) -> frozenset[Member]:
    """All that must go when these do, found from each member's own axis alone."""
    whole: frozenset[Member] = frozenset()
    for use, axis, entry in members:
        whole |= _places(found, group, int(owners(found.layouts[use][axis], group.dim)[entry]))
    return whole


def _plain(found: Dimensions) -> list[Group]:
    """Free groups of three units or more, none of which is two factors of one axis."""
    return [
        group
        for group in free(found)
        if group.size > 2
        and all(_depth(found.layouts[place.use][place.axis], group.dim) == 1 for place in group.weights)
    ]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SEEDS, STEPS, BATCHES)
def test_any_member_of_a_unit_gives_the_unit_and_no_more(seed: int, steps: int, batch: str | None) -> None:
    found = analyse(RandomNet(seed, steps, batch).net.graph)
    for group in _plain(found):
        units = [_places(found, group, index) for index in range(group.size)]
        for unit in units:
            assert unit
            assert all(_closure(found, group, [member]) == unit for member in unit)
        assert len(frozenset().union(*units)) == sum(map(len, units))
        some = frozenset(member for unit in units[::2] for member in list(unit)[:1])
        once = _closure(found, group, some)
        assert once == frozenset().union(*units[::2])
        assert _closure(found, group, once) == once


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SEEDS, STEPS, BATCHES)
def test_what_goes_with_a_unit_is_what_is_sliced(seed: int, steps: int, batch: str | None) -> None:
    """Each constant loses what the unit says, and nothing else of the graph's weights changes."""
    net = RandomNet(seed, steps, batch).net
    for number, group in enumerate(_plain(analyse(net.graph))):
        copy = net.graph.clone()
        found = analyse(copy)
        one = _plain(found)[number]
        index = seed % one.size
        gone: dict[str, dict[int, set[int]]] = {}
        for use, axis, entry in _places(found, one, index):
            value = use.op.inputs[use.port]
            assert value is not None
            gone.setdefault(value.name, {}).setdefault(axis, set()).add(entry)
        weights = {value.name: value.const.numpy() for value in copy.constants() if value.const is not None}
        slices = shrink(copy, found, {one.dim: np.delete(np.arange(one.size), index)})
        sliced = [piece for piece in slices if weights[piece.weight].dtype.kind == "f"]
        assert {(piece.weight, piece.axis) for piece in sliced} == {(name, a) for name in gone for a in gone[name]}
        for piece in sliced:
            size = weights[piece.weight].shape[piece.axis]
            assert set(range(size)) - set(piece.kept.tolist()) == gone[piece.weight][piece.axis]
        assert group.name == one.name


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SEEDS, STEPS, BATCHES)
def test_nothing_that_goes_with_a_unit_could_have_stayed(seed: int, steps: int, batch: str | None) -> None:
    """With any one of the weights left whole, the graph does not run: the closure is minimal."""
    net = RandomNet(seed, steps, batch).net
    for number, group in enumerate(_plain(analyse(net.graph))[:3]):
        for left in {occurrence.weight.name for occurrence in group.weights}:
            copy = net.graph.clone()
            found = analyse(copy)
            one = _plain(found)[number]
            whole = copy[left].const
            assert whole is not None
            shrink(copy, found, {one.dim: np.arange(1, one.size)})
            run(copy, net.feeds)
            copy[left].set_const(whole)
            with pytest.raises(BackendError):
                run(copy, net.feeds)


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
