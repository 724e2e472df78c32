"""A block on its turn, its weights not yet sparse: what it gives with any masks, and how that depends on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import Part
from secateur.ir.runner import Example
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams
from secateur.passes.layers.problem import Problem
from secateur.passes.sparsify.allocation import Wishes
from secateur.passes.sparsify.allocation.rates import Array, Ranks, ranks_of
from secateur.passes.sparsify.criteria import CRITERIA
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Pattern, Share
from secateur.passes.sparsify.spots import Spot

SAMPLES = 64
"""So many samples of the data a block is tried on, in whole batches."""

Masks: TypeAlias = Sequence[Array]
"""For each layer [lines, n] what its weights are multiplied by."""
Measure: TypeAlias = Callable[[Masks], float]
Slopes: TypeAlias = Callable[[Masks, int], Sequence[Array]]


@dataclass(frozen=True)
class Layer:
    """A weight of the block: its matrices one below the other, cut into lines that shares are counted over.

    Attributes:
        spot: where it is.
        problems: one for each of its matrices.
        ranks: [lines, n] the order in which the weights of a line go; for N:M 0 for all that go and 1 for what stays.
    """

    spot: Spot
    problems: tuple[Problem, ...]
    ranks: Ranks

    @property
    def size(self) -> int:
        """How many weights."""
        return int(self.ranks.size)

    @cached_property
    def array(self) -> NDArray[Any]:
        """The constant."""
        return self.spot.use.tensor.numpy()

    def masked(self, mask: Array) -> NDArray[Any]:
        """The constant, each element times its entry of a mask [lines, n]."""
        factors = self.spot.unfold(mask.reshape(len(self.problems), *self.problems[0].weight.shape))
        found: NDArray[Any] = (self.array * factors).astype(self.array.dtype)
        return found

    def at_mask(self, gradient: NDArray[Any]) -> Array:
        """[lines, n] the gradient at the mask, from that at the masked constant."""
        found: Array = self.spot.fold(gradient.astype(np.float64) * self.array).reshape(self.ranks.shape)
        return found


def layer_of(spot: Spot, problems: Sequence[Problem], methods: Methods, pattern: Pattern) -> Layer:
    """A layer ranked by its criterion, as the pattern counts."""
    if isinstance(pattern, Share):
        found = np.stack([CRITERIA[methods.criterion_of(one)].saliency(one) for one in problems])
        columns = found.shape[-1] if pattern.scope == "row" else found[0].size
        return Layer(spot, tuple(problems), ranks_of(found.reshape(-1, columns)))
    masks = np.stack([methods.mask(one, pattern) for one in problems])
    return Layer(spot, tuple(problems), masks.reshape(len(masks), -1).astype(np.int64))


@dataclass(frozen=True)
class Trial:
    """Layers that are decided together, on what they read by now; right is what the dense model gives behind them.

    Errors are squared and relative to the energy of their channel, the mean over channels (Xu et al. 2024, "BESA",
    equation 5): 0 where nothing is lost, 1 where a channel comes to nothing.

    Attributes:
        layers: in the order of the model.
        streams: the block as it is now, and as it was.
        end: the name of the value that counts.
        context: what runs and differentiates the block.
    """

    layers: tuple[Layer, ...]
    streams: Streams
    end: str
    context: Context

    @property
    def sizes(self) -> list[int]:
        """Weights of each layer."""
        return [layer.size for layer in self.layers]

    @cached_property
    def examples(self) -> list[Example]:
        """What the block reads now, and what it should give."""
        factory, dense = self.context.needed_runner("trying a block"), self.streams.dense
        found: list[Example] = []
        seen = 0
        with factory(dense.graph, inputs=dense.inputs, outputs=[self.end]) as then:
            for (_, batch), (_, other) in zip(self.streams.present.walk(), dense.walk(), strict=True):
                feeds = {name: batch.feeds[name] for name in self._inputs if name in batch.feeds}
                found.append(Example(feeds, then.run(other.feeds)[self.end], batch.weight))
                seen += batch.samples or 1
                if seen >= SAMPLES:
                    break
        return found

    @cached_property
    def per(self) -> Array:
        """What errors are divided by, shaped to be broadcast; the same for all where channels cannot be told."""
        targets = [(example.target.astype(np.float64), example.weight) for example in self.examples]
        rank = targets[0][0].ndim
        axis = self.layers[-1].spot.use.output_axis % rank if rank else 0
        if not rank or len({array.shape[axis] for array, _ in targets}) > 1:
            total = sum(float(np.square(array).sum()) * weight for array, weight in targets)
            return np.array(np.sqrt(total or 1.0))
        others = tuple(one for one in range(rank) if one != axis)
        energy = sum((np.square(array).sum(others) * weight for array, weight in targets), np.zeros(()))
        floor = 1e-6 * float(np.mean(energy)) or 1.0
        shape = [1] * rank
        shape[axis] = -1
        found: Array = np.sqrt(np.maximum(energy, floor) * np.size(energy)).reshape(shape)
        return found

    @property
    def _inputs(self) -> tuple[str, ...]:
        part: Part = self.streams.present
        if part.inputs is not None:
            return part.inputs
        return tuple(value.name for value in part.graph.inputs if value.const is None)

    @contextmanager
    def measure(self) -> Iterator[Measure]:
        """A function that runs the block with masks on all examples, and gives its error."""
        names = [layer.spot.weight.name for layer in self.layers]
        factory = self.context.needed_runner("trying a block")
        with factory(self.streams.present.graph, inputs=[*self._inputs, *names], outputs=[self.end]) as runner:

            def error(masks: Masks) -> float:
                weights = self._weights(masks)
                total = 0.0
                for one in self.examples:
                    made = runner.run({**one.feeds, **weights})[self.end].astype(np.float64)
                    total += one.weight * float(np.square((made - one.target) / self.per).sum())
                return total

            yield error

    @contextmanager
    def slopes(self) -> Iterator[Slopes]:
        """A function that gives the gradient of the error at the masks, from one example, whose turn a number says.

        Scaled up to all of the examples.
        """
        names = [layer.spot.weight.name for layer in self.layers]
        tuner, part = self.context.needed_tuner("allocation=besa"), self.streams.present
        total = sum(one.weight * len(one.target) for one in self.examples)
        per = self.per.astype(np.float32)
        with tuner(part.graph, inputs=self._inputs, output=self.end, weights=dict.fromkeys(names)) as ready:

            def gradients(masks: Masks, turn: int) -> Sequence[Array]:
                one = self.examples[turn % len(self.examples)]
                slope = ready.slope(self._weights(masks), replace(one, per=per))
                scale = total / (one.weight * len(one.target))
                return [
                    scale * layer.at_mask(slope.gradients[name]) for layer, name in zip(self.layers, names, strict=True)
                ]

            yield gradients

    def _weights(self, masks: Masks) -> dict[str, NDArray[Any]]:
        pairs = zip(self.layers, masks, strict=True)
        return {layer.spot.weight.name: layer.masked(mask) for layer, mask in pairs}


@dataclass(frozen=True)
class BlockRule(ABC):
    """An allocation that tries a block as a whole, instead of measuring weights one by one."""

    over: Literal["weight", "block", "model"] = "block"
    needs_data: bool = True
    span: int = 2
    """Neighbouring blocks that are decided together: attention and what feeds forward are two."""

    @abstractmethod
    def check(self, wishes: Wishes) -> None:
        """Raises ValueError for wishes that make no sense here."""

    @abstractmethod
    def decide(self, trial: Trial, wishes: Wishes) -> list[Pattern]:
        """The pattern of each layer."""

    def measure(self, problem: Problem, methods: Methods, wishes: Wishes) -> Any:
        """Nothing: weights are not measured by themselves."""
        return None

    def share(self, measured: Sequence[Any], wishes: Wishes) -> list[Pattern]:
        """What is asked for, where there is no block to try."""
        return [wishes.pattern for _ in measured]
