"""What the original model gives at one place after the other, computed from what it gave at the place before."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from secateur.calib.batches import Source
from secateur.calib.capture import Part
from secateur.ir.extract import extract
from secateur.ir.graph import Graph
from secateur.ir.runner import RunnerFactory


class Targets:
    """A value of a model for all batches; only this one is in memory.

    Masks and the like are computed anew from the model's inputs: the model that is fitted need not have them.
    """

    def __init__(self, graph: Graph, source: Source, factory: RunnerFactory) -> None:
        self._part = Part(graph, source)
        self._factory = factory
        self._name: str | None = None
        self._held: list[NDArray[Any]] = []

    def advance(self, name: str) -> list[NDArray[Any]]:
        """The value `name`, for each batch that counts.

        Args:
            name: of a value behind the one that was asked for last, if one was.
        """
        graph, past = self._part.graph, [] if self._name is None else [self._name]
        part = extract(graph, [*(value.name for value in graph.inputs), *past], [name])
        inputs = [value.name for value in part.inputs if part.is_used(value)]
        with self._factory(graph, inputs=inputs, outputs=[name]) as runner:
            for at, (_, batch) in enumerate(self._part.walk()):
                feeds = {**batch.feeds, **({past[0]: self._held[at]} if past else {})}
                made = runner.run({one: feeds[one] for one in inputs if one in feeds})
                self._held[at : at + 1] = [made[name]]
        self._name = name
        return list(self._held)
