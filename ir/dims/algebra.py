"""The algebra of axes: dimensions that are equal, products of others, or sums of others.

A *dimension* is a set of indices that live or die one by one. An axis has a *layout*: the factors of a product,
outermost first; none at all for an axis of size one. Saying that two layouts are the same (`unify`) refines both to
what they have in common: a reshape of 768 to 12 x 64 splits a dimension into a product, a concatenation into a sum.
Dimensions are merged by union-find, so that everything said before holds for the refined parts too.

What cannot be expressed is pinned with the reason: its indices must stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]


class Dim:
    """A dimension of `size` indices; None where the size is not known before run time (never removable then).

    It is a leaf, or a product of factors (outermost first), or a sum of terms (in order). `find` gives the one that
    stands for it now. `origin` says where it was first met.
    """

    __slots__ = ("_inexact", "_pin", "_same", "factors", "origin", "size", "terms")

    def __init__(self, size: int | None, origin: str = "") -> None:
        self.size = size
        self.origin = origin
        self.factors: tuple[Dim, ...] = ()
        self.terms: tuple[Dim, ...] = ()
        self._same: Dim | None = None
        self._pin: str | None = None
        self._inexact: str | None = None

    @property
    def pin(self) -> str | None:
        """Why no index of it may go; None where they may."""
        root = find(self)
        return "its size is not known before run time" if root.size is None and not root._pin else root._pin

    @property
    def inexact(self) -> str | None:
        """Why removing an index is more than masking it; None where it is not."""
        return find(self)._inexact

    @property
    def is_leaf(self) -> bool:
        """True where it is neither a product nor a sum."""
        return not self.factors and not self.terms

    def __repr__(self) -> str:
        root = find(self)
        if root.factors:
            return "·".join(map(repr, root.factors))
        if root.terms:
            return f"({' + '.join(map(repr, root.terms))})"
        return f"{'?' if root.size is None else root.size}"


Layout: TypeAlias = tuple[Dim, ...]

_ONLY = "nothing of the axis would be left"


def find(dim: Dim) -> Dim:
    """The dimension that stands for `dim` after all that was unified."""
    root = dim
    while root._same is not None:
        root = root._same
    while dim is not root:
        dim._same, dim = root, dim._same
    return root


def expand(layout: Iterable[Dim]) -> list[Dim]:
    """The factors of a layout down to leaves and sums, outermost first."""
    found: list[Dim] = []
    for dim in layout:
        root = dim if dim._same is None else find(dim)
        if root.factors:
            found.extend(expand(root.factors))
        else:
            found.append(root)
    return found


def leaves(layout: Iterable[Dim]) -> Iterator[Dim]:
    """Every leaf in a layout, those of sums included, each as often as it occurs."""
    for dim in map(find, layout):
        if dim.is_leaf:
            yield dim
        else:
            yield from leaves(dim.factors or dim.terms)


def size_of(layout: Iterable[Dim]) -> int | None:
    """The number of indices of an axis; None where a factor's is not known."""
    total = 1
    for dim in layout:
        if dim.size is None:
            return None
        total *= dim.size
    return total


def pin(layout: Iterable[Dim], reason: str) -> None:
    """No index of these dimensions may go. The first reason stays."""
    for dim in map(find, layout):
        if dim._pin is None:
            dim._pin = reason
            pin(dim.factors or dim.terms, reason)


def mark_inexact(layout: Iterable[Dim], reason: str) -> None:
    """Indices may go, but that is more than masking: a norm or a mean runs over them."""
    for dim in map(find, layout):
        if dim._inexact is None:
            dim._inexact = reason
            mark_inexact(dim.factors or dim.terms, reason)


def unify(one: Iterable[Dim], other: Iterable[Dim], where: str = "it") -> None:
    """The two layouts are the same axis, or the same run of axes; what does not fit together is pinned.

    `where` begins the reason: the op that says that they are the same.
    """
    a, b = expand(one), expand(other)
    if a == b:
        return
    if len(a) == len(b) == 1 and a[0].size == b[0].size:
        _merge(a[0], b[0], where)
        return
    _match_unknown(a, b, where)
    while a and b:
        left, right = find(a[0]), find(b[0])
        if left is right or left.size == right.size:
            del a[0], b[0]
            _merge(left, right, where)
        elif left.size == 1 or right.size == 1:
            pin([a.pop(0) if left.size == 1 else b.pop(0)], _ONLY)
        elif left.size is None or right.size is None or not _split(left, right, where):
            _match_ends(a, b, where)
            break
        # Merging may have refined what is still to come.
        a, b = expand(a), expand(b)
    pin([dim for dim in (*a, *b) if dim.size == 1], _ONLY)
    if rest := [dim for dim in (*a, *b) if dim.size != 1]:
        open_ = next((dim for dim in map(find, rest) if dim.size is None), None)
        if open_ is None:
            pin(rest, f"{where} cannot see {_text(expand(one))} as {_text(expand(other))}")
        else:
            pin(rest, f"{where} takes it for {open_.origin!r}, an axis whose size is not known before run time")


def split_sum(layout: Iterable[Dim], sizes: Sequence[int], where: str = "it") -> list[Layout] | None:
    """An axis as the parts that follow each other on it; None, and pinned, where it cannot be cut there.

    A part of size one is a dimension of size one, a part of size zero the empty layout.
    """
    whole = as_one(layout)
    ends = list(accumulate(sizes))
    if whole.size != ends[-1] or not all(_cut(whole, end) for end in ends):
        pin([whole], f"{where} cannot cut {whole!r} into {' + '.join(map(str, sizes))}")
        return None
    parts: list[Layout] = []
    terms, position = iter(_flat_terms(whole)), 0
    for end in ends:
        part: list[Dim] = []
        while position < end:
            part.append(next(terms))
            position += part[-1].size or 0
        parts.append((part[0],) if len(part) == 1 else (sum_of(part),) if part else ())
    return parts


def indices(layout: Iterable[Dim], kept: Mapping[Dim, Indices]) -> Indices:
    """The indices of an axis that stay when of each leaf in `kept` these stay (sorted), and all of the others.

    A product or a sum may be in `kept` too, with what stays of it as a whole.

    Raises:
        ValueError: the size of a dimension is not known.
    """
    found = np.zeros(1, np.int64)
    for dim in map(find, layout):
        if dim.size is None:
            raise ValueError(f"the size of {dim.origin or 'a dimension'} is not known")
        found = (found[:, None] * dim.size + _inside(dim, kept)).reshape(-1)
    return found


def _inside(dim: Dim, kept: Mapping[Dim, Indices]) -> Indices:
    if (found := kept.get(dim)) is not None:
        return found
    if dim.factors:
        return indices(dim.factors, kept)
    if dim.terms:
        starts = accumulate((find(term).size or 0 for term in dim.terms), initial=0)
        return np.concatenate([start + _inside(find(term), kept) for start, term in zip(starts, dim.terms)])  # noqa: B905
    assert dim.size is not None
    return np.arange(dim.size)


def owners(layout: Iterable[Dim], leaf: Dim) -> Indices:
    """For each index of an axis the index of `leaf` that it goes with; -1 where it goes with none.

    Raises:
        ValueError: the size of a dimension is not known.
    """
    found = np.full(1, -1, np.int64)
    for dim in map(find, layout):
        if dim.size is None:
            raise ValueError(f"the size of {dim.origin or 'a dimension'} is not known")
        inner = _owners_inside(dim, find(leaf))
        found = np.maximum(found[:, None], inner).reshape(-1)
    return found


def _owners_inside(dim: Dim, leaf: Dim) -> Indices:
    if dim.factors:
        return owners(dim.factors, leaf)
    assert dim.size is not None
    if dim is leaf:
        return np.arange(dim.size)
    found, start = np.full(dim.size, -1, np.int64), 0
    for term in map(find, dim.terms):
        end = start + (term.size or 0)
        if term is leaf or not term.is_leaf:
            found[start:end] = _owners_inside(term, leaf)
        start = end
    return found


def _text(layout: Sequence[Dim]) -> str:
    return " x ".join(map(repr, layout)) or "1"


def _match_unknown(a: list[Dim], b: list[Dim], where: str) -> None:
    """Where sizes are unknown: strips what agrees at both ends; a single unknown left is the product of the others."""
    if not any(dim.size is None for dim in (*a, *b)):
        return
    while a and b and _agree(find(a[0]), find(b[0])):
        _merge(a.pop(0), b.pop(0), where)
    _match_ends(a, b, where)
    for lone, others in ((a, b), (b, a)):
        first = find(lone[0]) if len(lone) == 1 < len(others) else None
        if first is not None and first.size is None and first.is_leaf and first not in leaves(others):
            _refine(first, factors=tuple(others))
            lone.clear()
            others.clear()


def _match_ends(a: list[Dim], b: list[Dim], where: str) -> None:
    """Strips what agrees from the inner end, as far as sizes are known."""
    while a and b:
        left, right = find(a[-1]), find(b[-1])
        if _agree(left, right):
            _merge(a.pop(), b.pop(), where)
        elif left.size is None or right.size is None or not _split(left, right, where, innermost=True):
            return
        a[:], b[:] = expand(a), expand(b)


def _agree(left: Dim, right: Dim) -> bool:
    return left is right or (left.size is not None and left.size == right.size)


def _refine(dim: Dim, *, factors: tuple[Dim, ...] = (), terms: tuple[Dim, ...] = ()) -> None:
    """Makes a dimension a product or a sum; what was said of it holds for the parts."""
    dim.factors, dim.terms = factors, terms
    if dim._pin is not None:
        pin(factors or terms, dim._pin)
    if dim._inexact is not None:
        mark_inexact(factors or terms, dim._inexact)


def _merge(left: Dim, right: Dim, where: str) -> None:
    """Two dimensions of one size are the same."""
    left, right = find(left), find(right)
    if left is right:
        return
    if right.is_leaf:
        left, right = right, left
    if left.is_leaf:
        if _contains(right, left):
            pin([right], f"{where} would make {right!r} contain itself")
        else:
            _absorb(left, right)
    elif left.factors and right.factors:
        unify(left.factors, right.factors, where)
        _absorb(left, right)
    elif left.terms and right.terms:
        _merge_sums(left, right, where)
    else:
        product, total = (left, right) if left.factors else (right, left)
        if _factor_sum(total, size_of(product.factors[1:]), where):
            unify(product.factors, total.factors, where)
            _absorb(left, right)
        else:
            pin([left, right], f"{where} cannot see {left!r} as {right!r}")


def _contains(whole: Dim, leaf: Dim) -> bool:
    """A dimension of known size lies in nothing that is smaller."""
    for part in map(find, whole.factors or whole.terms):
        if part is leaf:
            return True
        is_smaller = part.size is not None and leaf.size is not None and part.size < leaf.size
        if not is_smaller and _contains(part, leaf):
            return True
    return False


def _merge_sums(left: Dim, right: Dim, where: str) -> None:
    """Cuts both where either is cut, and merges term by term."""
    mine, theirs = _ends(left), _ends(right)
    while mine != theirs:
        if not all(_cut(left, end) for end in theirs) or not all(_cut(right, end) for end in mine):
            pin([left, right], f"{where} cannot see {left!r} as {right!r}")
            return
        # They may share terms, so that cutting one cuts the other too.
        mine, theirs = _ends(left), _ends(right)
    for one, other in zip(_flat_terms(left), _flat_terms(right), strict=True):
        _merge(one, other, where)
    if find(left) is not find(right):
        _absorb(find(left), find(right))


def _ends(dim: Dim) -> list[int]:
    """Where the flat terms of a dimension end."""
    return list(accumulate(term.size or 0 for term in _flat_terms(dim)))


def _absorb(gone: Dim, kept: Dim) -> None:
    """`gone` is `kept` from now on: a leaf, or something with the same parts."""
    gone, kept = find(gone), find(kept)
    if gone is kept:
        return
    gone._same = kept
    kept.origin = kept.origin or gone.origin
    if gone._pin is not None:
        pin([kept], gone._pin)
    if gone._inexact is not None:
        mark_inexact([kept], gone._inexact)


def _split(left: Dim, right: Dim, where: str, *, innermost: bool = False) -> bool:
    """Makes the larger one a product whose outermost (or innermost) factor has the size of the smaller one."""
    large, small = (left, right) if (left.size or 0) > (right.size or 0) else (right, left)
    assert large.size is not None
    assert small.size is not None
    if small.size < 2 or large.size % small.size:
        return False
    outer, inner = small.size, large.size // small.size
    if innermost:
        outer, inner = inner, outer
    if large.is_leaf:
        _refine(large, factors=(Dim(outer, large.origin), Dim(inner, large.origin)))
        return True
    return bool(large.terms) and _factor_sum(large, inner, where)


def _factor_sum(total: Dim, inner: int | None, where: str) -> bool:
    """Makes a sum of terms, each a multiple of `inner`, the product of a smaller sum with a dimension of size `inner`.

    All terms then share that dimension: one index of it is the same in every term.
    """
    terms = _flat_terms(total)
    if not inner or any(term.size is None or term.size % inner for term in terms):
        return False
    shared = Dim(inner, total.origin)
    counts = [Dim((term.size or 0) // inner, term.origin) for term in terms]
    outer = Dim(sum(count.size or 0 for count in counts), total.origin)
    outer.terms = tuple(counts)
    for term, count in zip(terms, counts, strict=True):
        unify([term], [count, shared], where)
    _refine(total, factors=(outer, shared))
    return True


def as_one(layout: Iterable[Dim]) -> Dim:
    """A layout as one dimension."""
    factors = expand(layout)
    if len(factors) == 1:
        return factors[0]
    whole = Dim(size_of(factors), factors[0].origin if factors else "")
    whole.factors = tuple(factors)
    return whole


def sum_of(terms: Sequence[Dim]) -> Dim:
    """Dimensions one after the other as one."""
    total = Dim(sum(term.size or 0 for term in terms), terms[0].origin)
    total.terms = tuple(terms)
    return total


def _flat_terms(dim: Dim) -> list[Dim]:
    """The terms of a sum, those of sums inside it instead of them; the dimension itself where it is no sum."""
    dim = find(dim)
    return [flat for term in dim.terms for flat in _flat_terms(term)] if dim.terms else [dim]


def _cut(dim: Dim, position: int) -> bool:
    """Refines a dimension so that one of its flat terms ends at `position`, if that can be."""
    start = 0
    for term in _flat_terms(dim):
        if term.size is None:
            return False
        if position <= start or position == start + term.size:
            return True
        if position < start + term.size:
            return _cut_term(term, position - start)
        start += term.size
    return False


def _cut_term(term: Dim, position: int) -> bool:
    """Makes a leaf a sum of two, or a product a sum of products with a smaller outermost factor."""
    assert term.size is not None
    if term.is_leaf:
        _refine(term, terms=(Dim(position, term.origin), Dim(term.size - position, term.origin)))
        return True
    outer, *inner = expand([term])
    stride = size_of(inner)
    if not stride or position % stride or not _cut(outer, position // stride):
        return False
    _refine(term, terms=tuple(as_one([count, *inner]) for count in _flat_terms(outer)))
    return True
