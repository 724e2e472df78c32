"""The `sparsify` pass: pattern, criterion, refinement, repair and allocation brought to bear on weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.known_targets import find_target
from secateur.ir.sizes import with_sizes
from secateur.ir.targets import Format
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.facts import Facts
from secateur.passes.layers.gains import Question, gains
from secateur.passes.layers.variations import varied
from secateur.passes.sparsify import criteria, refine, repair
from secateur.passes.sparsify.allocation import ALLOCATIONS, Wishes
from secateur.passes.sparsify.gradients import measure
from secateur.passes.sparsify.methods import Methods
from secateur.passes.sparsify.patterns import Scope, parse_named, parse_pattern
from secateur.passes.sparsify.spots import Demands, spots_of
from secateur.passes.sparsify.work import Work


@dataclass(frozen=True)
class Sparsify(Pass):
    """Zeros inside weights, in a pattern; shapes stay. What stays is fitted to what the dense layers gave.

    `2:4` and other N:M keep N of every M neighbours along the input channels, at each output channel and kernel
    position: axis 1 of a convolution's weight, the contracted axis of a matrix product. This is what TensorRT's sparse
    kernels read (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", section 3). `50%` is a share of zeros
    wherever they hurt least: smaller when packed, not faster.

    Layer after layer on the inputs that the model gives so far: a criterion chooses, a refinement swaps, a repair fits
    what stays to the outputs of the dense model. Published methods, written so:

        SparseGPT   sparsify{criterion=sparsegpt, repair=sweep, targets=own}
        Wanda       sparsify{criterion=wanda, repair=none, scope=row}
        RIA         sparsify{criterion=ria, repair=none}
        DSnoT       sparsify{criterion=wanda, refine=dsnot, repair=none, scope=row}
        Pruner-Zero sparsify{criterion=pruner-zero, repair=none, scope=row}
        BESA        sparsify{pattern=50%, criterion=wanda, repair=none, scope=row, allocation=besa}

    Depthwise convolutions, weights whose input channels M does not divide, codes that are quantized already, and
    weights that ops read along different axes stay dense, and the report says why.
    """

    name: ClassVar[str] = "sparsify"
    changes: ClassVar[Facet] = Facet.WEIGHTS | Facet.TOPOLOGY | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY

    pattern: str = "2:4"
    """N:M, of how many neighbours how many stay, or the share of zeros, such as 50%."""
    patterns: tuple[str, ...] = ()
    """Other patterns for weights by name: `[*head*:dense, *down*:4:8]`; globs, the first that fits counts."""
    scope: Scope = "layer"
    """What a share of zeros is counted over: all weights of a layer, or those of each output by themselves."""
    criterion: str = "auto"
    """What decides which weights stay; auto is sparsegpt with data and magnitude without."""
    refine: str = "auto"
    """What makes masks better: swap where nothing is repaired, admm before least squares; auto is admm where criterion
    is auto, too, and least squares follow, else none."""
    repair: str = "auto"
    """What is done to the weights that stay; auto is least squares with data and none without."""
    allocation: str = "uniform"
    """How zeros are spread: uniform, global by saliency (shares only), budget, as many as an error allows, or by what
    blocks give: besa (gradients, torch), coordinate (trial), closed-form (Grams); besa:30% where weights have N:M."""
    ladder: tuple[str, ...] = ()
    """For allocation=budget: patterns that a weight may have beside `pattern` and dense."""
    max_error: float = 0.0
    """For allocation=budget: the mean error of layers that is allowed, 1 - R² on held-out samples."""
    worthwhile: bool = True
    """Leave alone what no N:M kernel speeds up: input channels not in 16s, outputs not in 8s, groups."""
    target: str = ""
    """A device, as `secateur advise --sparsity` names them: leave alone what by its roofline gains nothing there."""
    target_format: Format = Format.FP16
    """The number format that products are computed in on the target."""
    times: str = ""
    """A file of kernels that were measured on the target; they count instead of the roofline."""
    batch: int = 0
    """How many samples run at once on the target; 0 is as many as a batch of the data has, 1 without data."""
    targets: Literal["dense", "own"] = "dense"
    """What layers are fitted to: what the dense model gave, or what they give by then themselves. The latter, which the
    papers have, leaves what layers before it lost, and takes half of the time: one model runs, not two."""
    damping: float = 0.01
    """What is added to the diagonals of Gram matrices, relative to their mean; pulls to the old weights go by it."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""
    augment: int | None = None
    """Variations of each batch to fit on as well (`secateur.calib.augment`): narrow data repairs narrowly. None is one
    for models that read tokens, where criterion, refine and repair are auto, too: what is named gets the data as it
    is."""

    def __post_init__(self) -> None:
        self._demands()
        if min(self.damping, self.positions, self.batch, self.augment or 0) < 0:
            raise ValueError("damping, positions, batch and augment must not be negative")
        named = (
            (criteria.CRITERIA, self.criterion),
            (refine.REFINEMENTS, self.refine),
            (repair.REPAIRS, self.repair),
        )
        if self.times and not self.target:
            raise ValueError(f"times={self.times} needs the target that they were measured on, such as target=l4")
        for choices, name in named:
            if name != "auto":
                choices.check(name)
        ALLOCATIONS.check(self.allocation)
        ALLOCATIONS[self.allocation].check(self._wishes())

    def run(self, graph: Graph, context: Context) -> int:
        """Masks every weight that fits, in the order of the model; returns how many changed."""
        methods = self._methods(context.source is not None)
        chooser = methods.chooser
        needs_data = chooser.needs_data or chooser.needs_gradients or ALLOCATIONS[self.allocation].needs_data
        needs_data |= methods.refine not in refine.DATA_FREE or methods.repair not in repair.DATA_FREE
        if needs_data and context.source is None:
            raise RefusedError(
                f"{self} needs calibration data, but none was given",
                hint="give --data, or sparsify{criterion=magnitude, repair=none}",
            )
        if context.source is None:
            context.note(f"no calibration data: weights are chosen by {methods.criterion}, and nothing is repaired")
        known = context.facts.get(known_fact)
        spots = spots_of(known, self._demands(self._gains(graph, context)), context)
        fed = varied(context, graph, self.augment, self.criterion, self.refine, self.repair)
        found = Work(graph, spots, methods, self._wishes(), self.allocation, fed, needs_data, self.targets == "own")
        if chooser.needs_gradients:
            found.gradients = measure(known, [spot.weight for spot in spots], fed, f"criterion={self.criterion}")
        return found.run() if spots else 0

    def _demands(self, found: Mapping[str, float | str] | None = None) -> Demands:
        named = tuple(parse_named(one, self.scope) for one in self.patterns)
        return Demands(parse_pattern(self.pattern, self.scope), named, self.worthwhile, found or {})

    def _gains(self, graph: Graph, context: Context) -> Mapping[str, float | str]:
        """What 2:4 can gain on the target, at the sizes that the data has, or the model itself."""
        if not self.target:
            return {}
        first = next(iter(context.source), None) if context.source is not None else None
        feeds = {} if first is None else {name: np.shape(array) for name, array in first.feeds.items()}
        shapes = {name: (self.batch or shape[0], *shape[1:]) for name, shape in feeds.items() if shape}
        sized = with_sizes(graph, shapes, self.batch or None)
        target = find_target(self.target)
        times = load_kernel_times(self.times, target) if self.times else None
        question = Question(target, self.target_format, times=times)
        return gains(Facts(sized).get(known_fact), question)

    def _wishes(self) -> Wishes:
        ladder = tuple(parse_pattern(one, self.scope) for one in self.ladder)
        return Wishes(parse_pattern(self.pattern, self.scope), ladder, self.max_error)

    def _methods(self, has_data: bool) -> Methods:
        """The options with what `auto` means here."""
        criterion = self.criterion if self.criterion != "auto" else "sparsegpt" if has_data else "magnitude"
        mend = self.repair if self.repair != "auto" else "least-squares" if has_data else "none"
        better = self.refine
        if better == "auto":
            # Masks of a named criterion stay what it made of them.
            better = "admm" if has_data and self.criterion == "auto" and mend == "least-squares" else "none"
        return Methods(criterion, better, mend, self.damping, self.positions)
