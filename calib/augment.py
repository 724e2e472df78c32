"""More calibration data out of little: variations that cost nothing, since the dense model itself says what is right.

Repairs fit what is left of a model to what the dense one gives. That needs no labels, and inputs need only to excite
what real ones do: a few hundred samples of one domain leave most directions untold. Haroush et al. 2020, "The Knowledge
Within: Methods for Data-Free Model Compression", and others make inputs up; here those that are there are varied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch, Source
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.types import Dim, TensorType

AnyArray: TypeAlias = NDArray[Any]

REPLACED = 0.3
"""The share of tokens that become any others of the vocabulary."""
SMALLEST_VOCABULARY = 256
"""Whole numbers with fewer meanings than these are no words: segments, classes, flags."""

_PASSING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_LOOKS_UP = frozenset({("Gather", 1), ("EmbedLayerNormalization", 0)})


@dataclass(frozen=True)
class Role:
    """What an input is.

    Attributes:
        kind: tokens are whole numbers that look up rows; images are [samples, channels, height, width].
        vocabulary: how many tokens there are.
        axes: the sizes that the model states; those of one name change together.
    """

    kind: Literal["tokens", "image", "other"]
    vocabulary: int
    axes: tuple[Dim, ...]


def roles(graph: Graph) -> dict[str, Role]:
    """What the inputs of a graph are, by name, as their readers show."""
    found = {}
    for value in graph.inputs:
        if value.const is not None or not isinstance(value.type, TensorType) or value.type.shape is None:
            continue
        found[value.name] = _role(value.type, _vocabulary(graph, value))
    return found


def _role(kind: TensorType, vocabulary: int) -> Role:
    axes = kind.shape or ()
    if vocabulary >= SMALLEST_VOCABULARY and len(axes) == 2:
        return Role("tokens", vocabulary, axes)
    return Role("image" if kind.dtype.is_float and len(axes) == 4 else "other", vocabulary, axes)


def _vocabulary(graph: Graph, value: Value) -> int:
    """The rows of the table that a value looks up, of several the smallest, for all must have them; 0 where none."""
    found: list[int] = []
    waiting, seen = [value], {value}
    while waiting:
        here = waiting.pop()
        for op, port in graph.uses(here):
            if (op.op_type, port) in _LOOKS_UP:
                tables = [graph.constant(one) for one in op.inputs]
                # Beside that of the words, one op may have tables of positions and segments.
                if rows := [one.shape[0] for one in tables if one is not None and len(one.shape) == 2]:
                    found.append(max(rows))
            elif op.op_type in _PASSING and port == 0 and op.output not in seen:
                seen.add(op.output)
                waiting.append(op.output)
    return min(found, default=0)


def augmented(source: Source, roles: Mapping[str, Role], copies: int, seed: int = 0) -> Source:
    """The batches of a source, each followed by `copies` variations of it.

    Tokens: a share is replaced by any others, halves of two samples are joined, or, where the model takes any length, a
    window is cut out. Tokens that every sample has (a start, an end, padding) stay, and so do counted positions. Images
    are mirrored, shifted, made lighter and darker, and mixed in pairs. Other inputs stay, cut where a window is.

    Args:
        source: of data as it is.
        roles: what the inputs are.
        copies: variations of each batch; 0 gives the source itself.
        seed: of all that is drawn.

    Raises:
        DataError: the source cannot be walked.
    """
    return _Augmented(source, dict(roles), copies, seed) if copies else source


class _Augmented:
    """A source and its variations."""

    def __init__(self, source: Source, roles: dict[str, Role], copies: int, seed: int) -> None:
        self.name = source.name
        self._source, self._roles, self._copies, self._seed = source, roles, copies, seed
        self._common: dict[str, NDArray[np.int64]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._common is None:
            self._common = _common(self._source, self._roles)
        for index, batch in enumerate(self._source):
            yield batch
            for copy in range(self._copies):
                random = np.random.default_rng([self._seed, index, copy])
                yield Batch(self._vary(batch.feeds, copy, random), batch.weight)

    def _vary(self, feeds: Mapping[str, AnyArray], copy: int, random: np.random.Generator) -> dict[str, AnyArray]:
        assert self._common is not None
        varied = dict(feeds)
        for name, common in self._common.items():
            if name in feeds:
                varied = _vary_tokens(varied, name, self._roles, common, copy, random)
        for name, role in self._roles.items():
            if role.kind == "image" and name in feeds:
                varied[name] = _vary_image(feeds[name], random)
        return varied


def _common(source: Source, roles: Mapping[str, Role]) -> dict[str, NDArray[np.int64]]:
    """The tokens that every sample has, for each input of tokens that are not just positions counted up."""
    found: dict[str, NDArray[np.int64]] = {}
    counted: set[str] = set()
    for batch in source:
        for name, role in roles.items():
            if role.kind != "tokens" or name not in batch.feeds:
                continue
            for row in batch.feeds[name]:
                found[name] = np.intersect1d(found.get(name, row), row).astype(np.int64)
                if len(row) > 1 and (np.diff(row) == 1).all():
                    counted.add(name)
    return {name: some for name, some in found.items() if name not in counted}


def _vary_tokens(
    feeds: Mapping[str, AnyArray],
    name: str,
    roles: Mapping[str, Role],
    common: NDArray[np.int64],
    copy: int,
    random: np.random.Generator,
) -> dict[str, AnyArray]:
    """One of the three ways, in turn."""
    tokens, role, varied = feeds[name].copy(), roles[name], dict(feeds)
    free = ~np.isin(tokens, common)
    if copy % 3 == 1:
        others = tokens[random.permutation(len(tokens))]
        where = np.arange(tokens.shape[1]) >= random.integers(1, tokens.shape[1] + 1, (len(tokens), 1))
        tokens = np.where(where & free & ~np.isin(others, common), others, tokens)
    drawn = random.integers(0, role.vocabulary, tokens.shape).astype(tokens.dtype)
    varied[name] = np.where(free & (random.random(tokens.shape) < REPLACED), drawn, tokens)
    if copy % 3 == 2 and isinstance(role.axes[1], str):
        window = _window(free, random)
        for other, array in varied.items():
            axes = roles[other].axes if other in roles else ()
            if len(axes) == array.ndim:
                for axis, size in enumerate(axes):
                    array = array.take(window, axis) if size == role.axes[1] else array
                varied[other] = array
    return varied


def _window(free: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.int64]:
    """Positions: a run of up to half of those that may go in some sample, between those that stay in all."""
    inner = np.flatnonzero(free.any(axis=0))
    if len(inner) < 2:
        return np.arange(free.shape[1])
    length = int(random.integers(1, len(inner) // 2 + 1))
    start = int(random.integers(0, len(inner) - length + 1))
    outer = np.flatnonzero(~free.any(axis=0))
    return np.sort(np.concatenate([outer, inner[start : start + length]]))


def _vary_image(images: AnyArray, random: np.random.Generator) -> AnyArray:
    """Each image by itself mirrored, shifted with its border mirrored, of another contrast; some mixed with another."""
    made = np.empty_like(images)
    for index, image in enumerate(images.astype(np.float32, copy=False)):
        varied = image[..., ::-1] if random.random() < 0.5 else image
        made[index] = (_shifted(varied, random) * random.uniform(0.7, 1.2)).astype(images.dtype)
    partner, share = random.permutation(len(images)), random.uniform(0.0, 0.5, (len(images), 1, 1, 1))
    share = np.where(random.random(share.shape) < 0.5, share, 0.0).astype(np.float32)
    return np.asarray(made * (1 - share) + made[partner] * share, images.dtype)


def _shifted(image: AnyArray, random: np.random.Generator) -> AnyArray:
    """Moved by up to an eighth of its size."""
    reach: Sequence[int] = [max(size // 8, 1) if size > 1 else 0 for size in image.shape[1:]]
    padded = np.pad(image, [(0, 0), *((one, one) for one in reach)], mode="reflect")
    top, left = (int(random.integers(0, 2 * one + 1)) for one in reach)
    return padded[:, top : top + image.shape[1], left : left + image.shape[2]]
