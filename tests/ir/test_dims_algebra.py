"""The algebra of axes: whatever is unified, any choice of kept indices gives both sides the same axis."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.ir.dims.algebra import Dim, Layout, expand, find, indices, leaves, owners, pin, size_of, split_sum, unify


def _kept(layouts: list[Layout], seed: int) -> dict[Dim, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for layout in layouts:
        for leaf in leaves(layout):
            if leaf.pin is None and leaf.size is not None:
                found[leaf] = np.flatnonzero(random.random(leaf.size) < 0.6)
    return found


def _factorizations(draw: st.DrawFn, total: int) -> Layout:
    sizes, rest = [], total
    while rest > 1:
        divisors = [size for size in range(2, rest + 1) if rest % size == 0]
        sizes.append(draw(st.sampled_from(divisors)))
        rest //= sizes[-1]
    return tuple(Dim(size) for size in sizes)


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[list[Layout], list[tuple[Layout, Layout]]]:
    """Layouts of 24 indices in products and sums, and a random sequence of pairs that were said to be the same."""
    layouts = [_factorizations(draw, 24) for _ in range(draw(st.integers(2, 4)))]
    pairs: list[tuple[Layout, Layout]] = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            one, other = draw(st.sampled_from(layouts)), draw(st.sampled_from(layouts))
            unify(one, other)
            pairs.append((one, other))
        else:
            layout, cut = draw(st.sampled_from(layouts)), draw(st.integers(1, 23))
            parts = split_sum(layout, [cut, 24 - cut])
            if parts is not None:
                fresh = [(Dim(cut),), (Dim(24 - cut),)]
                for part, new in zip(parts, fresh, strict=True):
                    unify(part, new)
                    pairs.append((part, new))
                layouts = [*layouts]
    return layouts, pairs


@settings(max_examples=600, deadline=None, derandomize=True)
@given(_worlds(), st.integers(0, 9))
def test_what_is_unified_keeps_the_same_indices(
    world: tuple[list[Layout], list[tuple[Layout, Layout]]], seed: int
) -> None:
    layouts, pairs = world
    everything = [*layouts, *(layout for pair in pairs for layout in pair)]
    kept = _kept(everything, seed)
    for one, other in pairs:
        np.testing.assert_array_equal(indices(one, kept), indices(other, kept))
    for layout in layouts:
        assert size_of(layout) == 24
        assert size_of(expand(layout)) == 24


def test_a_reshape_finds_heads() -> None:
    projection, heads, width = (Dim(768),), Dim(12), Dim(64)
    unify(projection, [heads, width])
    assert [dim.size for dim in expand(projection)] == [12, 64]
    kept = {find(heads): np.array([0, 5]), find(width): np.array([1])}
    assert indices(projection, kept).tolist() == [1, 5 * 64 + 1]


def test_packed_projections_fall_apart_or_share() -> None:
    packed = (Dim(36),)
    query, key, value = split_sum(packed, [12, 12, 12]) or []
    unify(query, [Dim(3), Dim(4)])
    unify(key, query)
    kept = {find(leaf): np.array([0]) for leaf in leaves(query)}
    assert len(indices(value, kept)) == 12
    assert indices(packed, kept).tolist() == [0, 12, *range(24, 36)]
    unify(packed, [Dim(3), Dim(12)])
    assert set(leaves(value)) <= set(leaves(query)) | {find(leaf) for leaf in leaves(packed)}
    assert [leaf.size for leaf in expand(value)] == [leaf.size for leaf in expand(query)]


def test_rotary_halves_are_one() -> None:
    width = (Dim(64),)
    first, second = split_sum(width, [32, 32]) or []
    unify(first, second)
    kept = {find(next(leaves(first))): np.array([3, 4])}
    assert indices(width, kept).tolist() == [3, 4, 35, 36]


def test_what_does_not_fit_is_pinned_with_the_reason() -> None:
    one, other = (Dim(4), Dim(6)), (Dim(6), Dim(4))
    unify(one, other)
    assert all(dim.pin and "cannot see" in dim.pin for dim in one)
    inside = (Dim(12), Dim(64))
    assert split_sum(inside, [32, 736]) is None
    assert all(dim.pin and "cannot cut" in dim.pin for dim in inside)


def test_unknown_sizes_match_from_both_ends() -> None:
    batch, sequence, flat, channels = Dim(None), Dim(None), Dim(None), Dim(768)
    unify([batch, sequence, channels], [flat, Dim(12), Dim(64)])
    assert [dim.size for dim in expand([channels])] == [12, 64]
    assert expand([flat]) == [batch, sequence]
    assert channels.pin is None
    assert flat.pin is not None


def test_a_pin_holds_for_parts_and_for_what_is_merged_later() -> None:
    one, other = Dim(12), Dim(12)
    pin([one], "because")
    unify([one], [Dim(3), Dim(4)])
    unify([other], [one])
    assert {leaf.pin for leaf in leaves([other])} == {"because"}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_worlds())
def test_every_index_has_one_owner_in_each_leaf_at_most(
    world: tuple[list[Layout], list[tuple[Layout, Layout]]],
) -> None:
    """Keeping all but one index of a leaf removes just the entries that it owns."""
    layouts, _ = world
    for layout in layouts:
        for leaf in set(leaves(layout)):
            assert leaf.size is not None
            owned = owners(layout, leaf)
            for index in range(leaf.size):
                kept = {leaf: np.delete(np.arange(leaf.size), index)}
                np.testing.assert_array_equal(indices(layout, kept), np.flatnonzero(owned != index))
