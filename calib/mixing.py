"""Two sets of data as one: what a model is for in general, and what it is wanted for.

A layer of Gram matrices H_general and H_domain is to be judged by

    (1 - share) H_general / tr(H_general) + share H_domain / tr(H_domain),

so that each set counts by its share, however many samples it has and however loud they are. This is an idea of D-Pruner
(Zhang et al. 2024, "Pruning as a Domain-specific LLM Extractor", NAACL) without its gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Batch, Source
from secateur.calib.capture import capture
from secateur.ir.errors import DataError
from secateur.ir.graph import Graph
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_uses
from secateur.ir.runner import RunnerFactory


@dataclass(frozen=True)
class Mixed:
    """The batches of one source and then of another, each times what its set counts; those that count 0 are left out.

    Attributes:
        general: data of all kinds.
        domain: data of the domain.
        counts: what the samples of each count.
    """

    general: Source
    domain: Source
    counts: tuple[float, float]

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.general.name} and {self.domain.name}"

    def __iter__(self) -> Iterator[Batch]:
        for source, count in zip((self.general, self.domain), self.counts, strict=True):
            if count > 0:
                yield from (replace(batch, weight=batch.weight * count) for batch in source)


def mixed(graph: Graph, general: Source, domain: Source, runner_factory: RunnerFactory, share: float = 0.5) -> Mixed:
    """Joins two sources so that the traces of the Gram matrices of what layers read are as 1 - share to share.

    The traces are measured in a walk over each. One number weighs a whole set, so where layers do not agree on how much
    louder one set is, the geometric mean of them decides; for one layer, or where all agree, it is exact. Compare the
    result with the dense model on either set: that says which share serves both.

    Args:
        graph: the model, as it is before it is compressed.
        general: data of all kinds.
        domain: data of the domain.
        runner_factory: runs the model.
        share: what the domain counts, 0 .. 1.

    Raises:
        ValueError: the share is out of range.
        DataError: a set has no samples, or what layers read is always zero.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be 0 to 1, got {share}")
    if share in (0, 1):
        return Mixed(general, domain, (1.0 - share, float(share)))
    ours, theirs = (energies(graph, source, runner_factory) for source in (general, domain))
    told = [name for name, energy in ours.items() if energy > 0 and theirs[name] > 0]
    if not told:
        raise DataError(
            f"no layer of {graph.title} reads anything but zeros in {general.name} and in {domain.name}",
            hint="give samples that the model makes something of",
        )
    louder = float(np.mean([np.log(ours[name] / theirs[name]) for name in told]))
    return Mixed(general, domain, (1.0 - share, share * float(np.exp(louder))))


def energies(graph: Graph, source: Source, runner_factory: RunnerFactory) -> dict[str, float]:
    """The sum of squares, over all samples, of each value that a layer reads, by name.

    It is the trace of a matrix product's Gram matrix, and that of a convolution's but for its borders and its taps.
    """
    found = {use.data.name: _Energy() for use in weight_uses(Known(graph))}
    capture(graph, source, runner_factory, {name: [one] for name, one in found.items()})
    return {name: one.sum for name, one in found.items()}


@dataclass
class _Energy:
    sum: float = 0.0

    def update(self, array: NDArray[Any], weight: float) -> None:
        """Adds one batch."""
        self.sum += weight * float(np.square(array, dtype=np.float64).sum())
