"""What the answers of a model lose when a share of one group goes: each group tried once, by itself."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.calib.capture import Part
from secateur.calib.output_error import meanings
from secateur.calib.perturbations import Perturbations
from secateur.ir.dims.analysis import Dimensions
from secateur.ir.errors import GraphError
from secateur.passes.context import Context
from secateur.passes.layers.answers import enough, some_samples
from secateur.passes.layers.matrix import same_use, write_layer
from secateur.passes.prune.problem import Indices, Problem
from secateur.passes.prune.units import Units

TRIED = 0.2
"""The share of a group that goes for a try: one unit at least, and not all."""

CHOSEN_ON = 8
"""Samples that the choice of what goes is made on, for each that judges. Of those that judge alone it would take what
these can spare: on SmolLM2 the first feed-forward would do 10 times the harm of a middle one, and not 16 times."""

CRITERION = "wanda-sp"
"""What chooses the units that go, whatever chooses in the end, and nothing is repaired: choices and repairs that are
fitted to the samples that judge them hide what is lost elsewhere, and most of it in the groups that hurt most."""


def tried(size: int) -> int:
    """How many of so many units go; 0 of a single one."""
    return min(max(1, round(TRIED * size)), size - 1)


class Trials:
    """Takes a share from each group of a model, in their order, and finds out what its answers lose.

    Answers are compared as `secateur.calib.output_error` says, by the divergence of beliefs where they are beliefs, and
    errors are taken to the share that was asked for: where one of three units goes, to 0.2 / 0.33 of what that did.
    """

    def __init__(self, chosen_on: Part, perturbations: Perturbations) -> None:
        """Takes the model as it is, with the samples by which to choose what goes."""
        self._graph, self.source, self._perturbations = chosen_on.graph, chosen_on.source, perturbations
        self._whole: dict[int, float] = {}
        self._shares: dict[int, float] = {}

    def attempt(self, key: int, units: Units, problem: Problem, kept: Indices, cut: Sequence[str] | None) -> None:
        """Takes what is not kept from a group, in a copy.

        Args:
            key: what to call it.
            units: the group; the layers that read it are masked, so it must have some.
            problem: its arrays.
            kept: the units that stay.
            cut: the values at which the part of the model begins that the group lies in; None for all of it.
        """
        graph = self._graph.clone()
        for reader, layer in zip(units.readers, problem.layers, strict=True):
            matrix = layer.matrix.copy()
            matrix[:, layer.gone(kept)] = 0.0
            write_layer(graph, same_use(graph, reader.use), matrix, None)
        self._shares[key] = 1 - len(kept) / problem.size
        found = self._perturbations.add(key, graph, cut)
        if found is not None:
            self._whole[key] = found

    def harms(self) -> dict[int, float]:
        """By key what the answers lost; infinite where they were no numbers any more."""
        found = self._whole | self._perturbations.errors()
        return {key: error * TRIED / self._shares[key] for key, error in found.items()}


def trials_of(found: Dimensions, context: Context, who: str) -> Trials:
    """Trials on a model, with as many samples as tell something.

    Raises:
        BackendError: there is no runtime.
        DataError: there is no data, or none that fits.
        GraphError: the model has no output of real numbers.
    """
    graph, outputs = found.known.graph, meanings(found.known)
    if not outputs:
        raise GraphError(f"{graph.title} has no output of real numbers", hint=f"{who} needs some: take another")
    samples = enough(graph, outputs, context, who)
    judging, choosing = (some_samples(graph, count, context, who) for count in (samples, CHOSEN_ON * samples))
    return Trials(choosing, Perturbations(judging, outputs, context.needed_runner(who)))
