"""One decision of channel pruning as arrays: what criteria choose from, and what repairs mend. No graph in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.passes.layers.evidence import Evidence
from secateur.passes.layers.matrix import bias_of, matrix_of
from secateur.passes.prune.chains import Chain


@dataclass(frozen=True)
class Layer:
    """A layer that loses inputs.

    Attributes:
        weight: [outputs, channels, taps] float64, scaled so that `rows @ weight.T + bias` is what the layer gives.
        bias: [outputs] float64; None where the layer takes none.
        evidence: moments of its inputs and targets; None without data.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    evidence: Evidence | None

    @property
    def taps(self) -> int:
        """Columns of the layer's input for each channel."""
        return int(self.weight.shape[2])

    def columns(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """The input columns that belong to the kept channels."""
        return (kept[:, None] * self.taps + np.arange(self.taps)).reshape(-1)


@dataclass(frozen=True)
class ChannelProblem:
    """Which of `channels` to keep: the layers that read them, and the weight [channels, ...] that makes them."""

    channels: int
    producer: NDArray[Any]
    layers: tuple[Layer, ...]


def problem_of(chain: Chain, evidence: list[Evidence] | None) -> ChannelProblem:
    """The arrays of a chain as it is now."""
    produced = np.moveaxis(chain.producer.tensor.numpy(), chain.producer.produced, 0)
    layers = []
    for index, consumer in enumerate(chain.consumers):
        matrix = matrix_of(consumer.use)
        weight = matrix.reshape(len(matrix), chain.channels, -1)
        layers.append(Layer(weight, bias_of(consumer.use), None if evidence is None else evidence[index]))
    return ChannelProblem(chain.channels, produced.reshape(chain.channels, -1), tuple(layers))
