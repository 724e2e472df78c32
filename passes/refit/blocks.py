"""The `refit-blocks` pass: what is left of each block, fitted to what the whole block gave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur.calib.augment import augmented, roles
from secateur.calib.block_stream import Stage, capture_blocks
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.normalized import is_normalized
from secateur.ir.runner import Descent, Example, Tuned, TunerFactory
from secateur.ir.tensor import Tensor
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.row_counts import RowCounts
from secateur.passes.refit.parts import movable, shared_parts, weights_of
from secateur.passes.refit.readout import narrowed
from secateur.passes.refit.split import Split, is_divisible
from secateur.passes.refit.targets import Targets

POSITIONS = 32
"""Positions of a sequence that say about as much as a sample of anything else."""

_APART = 10
"""Steps between two looks at what was held out, at least."""


@dataclass(frozen=True)
class RefitBlocks(Pass):
    """Fits what other passes have left, block by block, to the outputs of the model as it was, by Adam, without labels.

    The last resort, behind `prune` or `sparsify`: it takes torch and time. Each block is fed what the fitted blocks
    before it give, and is to give what the block of the original model gave for the same samples (Zhang et al. 2016,
    section 3.3; by gradients as Li et al. 2021, "BRECQ", section 3.3). Where norms read that, large tokens count less
    (`secateur.passes.layers.row_counts`). Each fifth sample is held out: of all states on the way the one with the
    smallest error there is taken, and none where that is not smaller than before.
    """

    name: ClassVar[str] = "refit-blocks"
    changes: ClassVar[Facet] = Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False
    joint: ClassVar[bool] = True

    steps: int = 200
    """Of each block."""
    rate: float = 0.01
    """How far the first steps move an element, relative to the root mean square of its weight; falls to nought."""
    batch_size: int = 32
    """Samples for each step; 32 positions of a sequence count as one."""
    span: int = 1
    """Neighbouring blocks that are fitted as one; 0 takes the whole model."""
    keep_zeros: bool = True
    """Zeros of weights that have many stay zero, so that what was made sparse stays so."""
    augment: int = 0
    """Variations of each batch to fit on, and to judge by, as well (`secateur.calib.augment`)."""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or not self.rate > 0:
            raise ValueError("steps and batch_size must be at least 1, and rate above 0")
        if min(self.span, self.augment) < 0:
            raise ValueError("span and augment must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Fits block by block; returns how many are better for it."""
        if context.original is None:
            raise RefusedError(
                f"{self.name} fits what passes before it have left, but none has taken anything away",
                hint="put it behind another pass, as in `prune{ratio=0.5},refit-blocks`",
            )
        source, factory = context.needed_source(self.name), context.needed_runner(self.name)
        tuner = context.needed_tuner(self.name)
        split = Split(source, self.batch_size, divisible=is_divisible(graph))
        held_out = [held for _, held in split.walk() for _ in range(1 + self.augment)]
        if not any(held_out):
            context.note("too few samples to hold some out: those that are fitted on judge the fit, too")
        fed = augmented(split, roles(graph), self.augment, context.seed)
        known, dense = narrowed(context.facts.get(known_fact), known_fact(context.original), context)
        names = {value.name for value in graph.constants()}
        parts = shared_parts(known, dense, self.span, split, factory)
        chosen = {part: [one for one in weights_of(known, part) if one.name in names] for part in parts}
        wanted = [part for part in parts if chosen[part] and context.allow("refit", part.ops[-1])]
        if not wanted:
            context.note("no block with weights ends with a value that the original model has in the same shape")
        targets, fitted = Targets(dense.graph, fed, factory), 0

        def visit(stage: Stage) -> None:
            nonlocal fitted
            context.progress(self.name, stage.index, len(wanted))
            end = stage.block.exit
            made = _examples(stage, targets.advance(end.name), is_normalized(known, end))
            examples = list(zip(made, held_out, strict=True))
            fitted += self._fit(stage, chosen[stage.block], examples, tuner, context)

        if wanted:
            capture_blocks(known.graph, fed, factory, wanted, visit)
        context.progress(self.name, len(wanted), len(wanted))
        _carry(graph, [value for part in wanted for value in chosen[part]])
        context.manifest.exact &= not fitted
        return fitted

    def _fit(
        self,
        stage: Stage,
        weights: Sequence[Value],
        examples: Sequence[tuple[Example, bool]],
        tuner: TunerFactory,
        context: Context,
    ) -> bool:
        """Fits one block to examples, some of which are held out; True if it is better for it."""
        end = stage.block.exit.name
        masks = {value.name: movable(value, self.keep_zeros) for value in weights}
        how = Descent(
            self.steps,
            self.rate,
            step_samples(self.batch_size, examples[0][0]),
            checks=min(10, -(-self.steps // _APART)),
            seed=int(context.random(end).integers(1 << 31)),
        )
        judging = [one for one, held in examples if held]
        fitting = [one for one, held in examples if not held]
        part = stage.current
        with tuner(part.graph, inputs=part.inputs or (), output=end, weights=masks) as ready:
            tuned = ready.fit(fitting, judging, how)
        self._report(context, end, len(weights), tuned, judging or fitting)
        return _write(weights, tuned.weights)

    def _report(self, context: Context, end: str, count: int, tuned: Tuned, judging: Sequence[Example]) -> None:
        """Errors are 1 - R²: relative to the variance of what the block should give."""
        wanted = (one.target / (1.0 if one.per is None else one.per) for one in judging)
        numbers = np.concatenate([one.astype(np.float64).reshape(-1) for one in wanted])
        variance = float(numbers.var()) or 1.0
        before, after = tuned.before / variance, tuned.after / variance
        context.row(block=end, weights=count, steps=self.steps, before=before, after=after)


def _examples(stage: Stage, targets: Sequence[NDArray[Any]], is_relative: bool) -> Iterator[Example]:
    """What a block reads and should give, batch by batch; `is_relative` where rows count by their size."""
    if not is_relative:
        yield from (Example(one.feeds, wanted, one.weight) for one, wanted in zip(stage.inputs, targets, strict=True))
        return
    counts = RowCounts()
    for one, made, wanted in zip(stage.inputs, stage.outputs, targets, strict=True):
        per = 1 / np.sqrt(counts.of(wanted, made.feeds[stage.block.exit.name]))
        yield Example(one.feeds, wanted, one.weight, per)


def step_samples(batch_size: int, example: Example) -> int:
    """How many samples make a step: fewer where they are sequences, targets [samples, positions, width]."""
    shape = example.target.shape
    return max(1, batch_size * POSITIONS // max(POSITIONS, shape[1])) if len(shape) == 3 else batch_size


def _carry(graph: Graph, fitted: Iterable[Value]) -> None:
    """Gives the weights of a graph what was fitted in a clone of it; those of the graph itself have it."""
    for value in fitted:
        own = graph[value.name]
        if value.const is not None and own.const is not value.const:
            own.set_const(value.const)


def _write(weights: Sequence[Value], found: Mapping[str, object]) -> bool:
    """Gives weights their new numbers, rounded to the type that they have; True if any is another one now."""
    changed = False
    for value in weights:
        if value.name in found:
            assert value.const is not None
            made = np.asarray(found[value.name]).astype(value.const.dtype.numpy)
            changed |= not np.array_equal(made, value.const.numpy())
            value.set_const(Tensor(np.ascontiguousarray(made), value.const.dtype))
    return changed
