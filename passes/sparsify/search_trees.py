"""Trees of criteria that are bred: made at random, changed, crossed, and rid of what undoes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from secateur.passes.sparsify.criteria.expression import Node

ONE = ("abs", "exp", "log", "mms", "neg", "sqr", "sqrt", "tanh", "zsn")
TWO = ("add", "div", "mul", "sub")

_EITHER_WAY = frozenset({"add", "mul"})

_PAIRS: Mapping[tuple[str, str], str | None] = MappingProxyType(
    {
        ("neg", "neg"): None,
        ("sqrt", "sqr"): "abs",
        ("sqr", "sqrt"): "abs",
        ("exp", "log"): "abs",
        ("log", "exp"): None,
        ("abs", "abs"): "abs",
        ("abs", "neg"): "abs",
        ("abs", "sqr"): "sqr",
        ("abs", "sqrt"): "sqrt",
        ("abs", "exp"): "exp",
        ("abs", "mms"): "mms",
        ("sqr", "abs"): "sqr",
        ("sqr", "neg"): "sqr",
        ("sqrt", "abs"): "sqrt",
        ("sqrt", "neg"): "sqrt",
        ("log", "abs"): "log",
        ("log", "neg"): "log",
        ("mms", "mms"): "mms",
        ("mms", "zsn"): "mms",
        ("zsn", "zsn"): "zsn",
        ("zsn", "mms"): "zsn",
    }
)
"""(outer, inner): the one operator that both come to, None for nothing at all. Of exp and log up to 1e-3."""

_UNDONE = MappingProxyType({"add": "sub", "sub": "add", "mul": "div", "div": "mul"})


def text_of(node: Node) -> str:
    """What `secateur.passes.sparsify.criteria.expression.expression` reads the tree from."""
    return f"{node.word}({','.join(map(text_of, node.parts))})" if node.parts else node.word


def depth_of(node: Node) -> int:
    """Levels, a symbol has 1."""
    return 1 + max(map(depth_of, node.parts), default=0)


def size_of(node: Node) -> int:
    """Nodes."""
    return 1 + sum(map(size_of, node.parts))


def grown(random: np.random.Generator, depth: int, symbols: Sequence[str]) -> Node:
    """A random tree of exactly so many levels."""
    if depth <= 1:
        return Node(str(random.choice(symbols)))
    if random.random() < 0.5:
        return Node(str(random.choice(ONE)), (grown(random, depth - 1, symbols),))
    other = grown(random, int(random.integers(1, depth)), symbols)
    parts = [grown(random, depth - 1, symbols), other]
    if random.random() < 0.5:
        parts.reverse()
    return Node(str(random.choice(TWO)), tuple(parts))


def mutated(node: Node, random: np.random.Generator, symbols: Sequence[str]) -> Node:
    """One node becomes another of its kind, or a small tree, or one of its own parts."""
    places = list(_places(node))
    place = places[int(random.integers(len(places)))]
    old, kind = _at(node, place), random.random()
    if kind < 0.4:
        words = (symbols, ONE, TWO)[len(old.parts)]
        new = Node(str(random.choice(words)), old.parts)
    elif kind < 0.75 or not old.parts:
        new = grown(random, int(random.integers(1, 4)), symbols)
    else:
        new = old.parts[int(random.integers(len(old.parts)))]
    return _with(node, place, new)


def crossed(one: Node, other: Node, random: np.random.Generator) -> Node:
    """The first with a part of the second in place of one of its own."""
    ours, theirs = list(_places(one)), list(_places(other))
    part = _at(other, theirs[int(random.integers(len(theirs)))])
    return _with(one, ours[int(random.integers(len(ours)))], part)


def simplified(node: Node) -> Node:
    """Without operators that undo each other, and with the parts of what goes either way in a fixed order.

    Dong et al. 2024, "Pruner-Zero", section 3.3 (opposing operation simplification): two trees that rank weights alike
    need not both be tried.
    """
    while True:
        found = _simpler(Node(node.word, tuple(map(simplified, node.parts))))
        if found == node:
            return node
        node = found


def _simpler(node: Node) -> Node:
    if len(node.parts) == 1:
        return _simpler_one(node)
    return _simpler_two(node) if node.parts else node


def _simpler_one(node: Node) -> Node:
    (inner,) = node.parts
    if node.word in ("pow", "pow2"):
        return Node("sqr", node.parts)
    if node.word == "skp":
        return inner
    if len(inner.parts) == 1 and (node.word, inner.word) in _PAIRS:
        word = _PAIRS[node.word, inner.word]
        return inner.parts[0] if word is None else Node(word, inner.parts)
    return node


def _simpler_two(node: Node) -> Node:
    left, right = node.parts
    word = node.word
    # What was added is taken away again, and so on.
    if left.word == _UNDONE.get(word) and len(left.parts) == 2:
        if left.parts[1] == right:
            return left.parts[0]
        if left.word in _EITHER_WAY and left.parts[0] == right:
            return left.parts[1]
    if word in _EITHER_WAY and right.word == _UNDONE[word] and len(right.parts) == 2 and right.parts[1] == left:
        return right.parts[0]
    if right.word == "neg" and word in ("add", "sub"):
        return Node(_UNDONE[word], (left, right.parts[0]))
    if word in _EITHER_WAY and text_of(right) < text_of(left):
        return Node(word, (right, left))
    return node


def _places(node: Node, before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    yield before
    for index, part in enumerate(node.parts):
        yield from _places(part, (*before, index))


def _at(node: Node, place: tuple[int, ...]) -> Node:
    for index in place:
        node = node.parts[index]
    return node


def _with(node: Node, place: tuple[int, ...], new: Node) -> Node:
    if not place:
        return new
    parts = [_with(part, place[1:], new) if at == place[0] else part for at, part in enumerate(node.parts)]
    return Node(node.word, tuple(parts))
