"""The `prune` pass: criterion, allocation and repair brought to bear on one chain of channels after another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.rules.weights import weight_use
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import gather, unsupported
from secateur.passes.layers.matrix import write_layer
from secateur.passes.prune.chains import Chain, Refusal, chain_of, producers
from secateur.passes.prune.criteria import CRITERIA
from secateur.passes.prune.problem import problem_of
from secateur.passes.prune.repair import REPAIRS
from secateur.passes.prune.surgery import remove_channels


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Removes a share of the channels between layers; what reads them is refitted to what the dense model gave.

    Layer by layer from the input on, as He, Zhang and Sun (2017), "Channel Pruning for Accelerating Very Deep Neural
    Networks", ICCV: LASSO chooses the channels, least squares repairs their readers, and the next layer sees the model
    as it is pruned so far while its target stays that of the dense one. Without data: by magnitude, unrepaired.

    Handles channels that one convolution or matrix product makes and that others sum over, with any channel-wise ops
    between; channels on a residual trunk or in a concatenation stay, and the report says why.
    """

    name: ClassVar[str] = "prune"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.SHAPE | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY

    ratio: float = 0.5
    """The share of each prunable dimension that goes, in [0, 1)."""
    dims: Literal["channels"] = "channels"
    """What is removed together."""
    criterion: Literal["auto", "lasso", "magnitude"] = "auto"
    """What decides; auto is lasso with data and magnitude without."""
    repair: Literal["auto", "least-squares", "none"] = "auto"
    """What mends the readers; auto is least squares with data and none without."""
    align: int = 8
    """Kept channels are rounded up to a multiple of this (8 suits float16 kernels, 32 int8 and 2:4)."""
    damping: float = 0.01
    """Pull of the refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image; 0 takes all."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio must be in [0, 1), got {self.ratio}")
        if self.align < 1 or self.positions < 0 or self.damping < 0:
            raise ValueError("align must be at least 1; damping and positions must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Prunes every chain once; returns how many lost channels."""
        has_data = context.source is not None
        if not has_data and (self.criterion == "lasso" or self.repair == "least-squares"):
            raise RefusedError(
                f"{self} needs calibration data, but none was given",
                hint="give --data, or prune{criterion=magnitude, repair=none}",
            )
        if not has_data:
            context.note("no calibration data: channels are chosen by magnitude, and nothing is repaired")
        dense = graph.clone() if has_data else graph
        known = context.facts.get(known_fact)
        makers = [producer.op for producer in producers(known)]
        removed = 0
        for index, maker in enumerate(makers):
            context.progress("prune", index, len(makers))
            # Found anew each time: what was pruned before has changed the weights.
            producer = weight_use(known, maker)
            chain = None if producer is None else chain_of(known, producer)
            if isinstance(chain, Refusal):
                context.row(weight=chain.title, channels=chain.producer.outputs, kept=chain.producer.outputs)
                context.note(f"{chain.title} keeps its channels: {chain.reason}")
            elif chain is not None and context.allow("prune", maker):
                removed += self._prune(graph, dense, chain, context)
        context.progress("prune", len(makers), len(makers))
        return removed

    def _prune(self, graph: Graph, dense: Graph, chain: Chain, context: Context) -> bool:
        """Prunes one chain; tells whether any channel went."""
        keep = self._kept(chain.channels)
        reason = next(filter(None, (unsupported(consumer.use) for consumer in chain.consumers)), None)
        if keep == chain.channels or (reason and context.source is not None):
            context.row(weight=chain.title, channels=chain.channels, kept=chain.channels)
            context.note(f"{chain.title} keeps its channels: {reason or f'{keep} is what align={self.align} asks for'}")
            return False
        evidence = None
        if context.source is not None:
            evidence = gather(graph, dense, [consumer.use for consumer in chain.consumers], context, self.positions)
        problem = problem_of(chain, evidence)
        kept = CRITERIA[self._criterion(context)](problem, keep)
        repair = REPAIRS[self._repair(context)]
        repaired = [repair(layer, kept, self.damping) for layer in problem.layers]
        remove_channels(graph, chain, kept, context.manifest)
        for consumer, layer in zip(chain.consumers, repaired, strict=True):
            if repair is not REPAIRS["none"]:
                write_layer(graph, consumer.use, layer.weight.reshape(len(layer.weight), -1), layer.bias)
                context.manifest.exact = False
            context.row(
                weight=chain.title,
                channels=chain.channels,
                kept=keep,
                reader=consumer.use.weight.name,
                error=layer.error,
                unrepaired=layer.unrepaired,
            )
        return True

    def _criterion(self, context: Context) -> str:
        return self.criterion if self.criterion != "auto" else "lasso" if context.source is not None else "magnitude"

    def _repair(self, context: Context) -> str:
        return self.repair if self.repair != "auto" else "least-squares" if context.source is not None else "none"

    def _kept(self, channels: int) -> int:
        wanted = max(1, math.ceil(channels * (1 - self.ratio) - 1e-9))
        return min(channels, math.ceil(wanted / self.align) * self.align)
