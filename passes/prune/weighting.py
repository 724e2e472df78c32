"""What errors of a layer cost the whole model: outputs that its answers depend on more count for more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.calib.sensitivity import sensitivities
from secateur.ir.dims.analysis import Dimensions
from secateur.passes.context import Context
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.units import Units

Sensitivities: TypeAlias = Mapping[str, NDArray[np.float64]]
"""By the name of what a layer gives: [outputs], see `secateur.calib.sensitivity`."""

SAMPLES = 32
"""So many samples of the data are differentiated."""


def measure(found: Dimensions, wanted: Iterable[Units], context: Context) -> Sensitivities:
    """How much the answers of a model depend on the outputs of all layers that read these units."""
    uses = [reader.use for units in wanted for reader in units.readers]
    at = {use.op.output.name: use.output_axis for use in uses}
    if not at:
        return {}
    factory, source = context.needed_differentiator("weighting=fisher"), context.needed_source("weighting=fisher")
    return sensitivities(found.known, source, factory, at, samples=SAMPLES, seed=context.seed)


def weighted(problem: Problem, units: Units, found: Sensitivities) -> Problem:
    """The same problem with each output scaled by the root of its sensitivity, for a criterion to choose by.

    Losses are then divergences of the model's answers from those of the dense model, in nats a sample, in the Fisher
    metric with a diagonal over outputs and positions (as Singh and Alistarh 2020, "WoodFisher: Efficient
    Second-Order Approximation for Neural Network Compression", section 3, use it on weights): one unit for all groups.
    """
    if len(problem.layers) != len(units.readers):
        return problem
    pairs = zip(problem.layers, units.readers, strict=True)
    return replace(problem, layers=tuple(_scaled(layer, found[reader.use.op.output.name]) for layer, reader in pairs))


def _scaled(layer: Layer, sensitivity: NDArray[np.float64]) -> Layer:
    if layer.evidence is None:
        return layer
    evidence, factors = layer.evidence, np.sqrt(sensitivity)
    scaled = replace(
        evidence,
        fit=evidence.fit.with_targets_scaled(factors),
        held_out=evidence.held_out.with_targets_scaled(factors),
    )
    bias = None if layer.bias is None else layer.bias * factors
    # Half the mean square, weighted, is the divergence.
    return replace(
        layer, matrix=layer.matrix * factors[:, None], bias=bias, evidence=scaled, stake=2.0 * evidence.fit.count
    )
