"""What a plan does to the answers of a model, tried on a copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secateur.calib.output_error import Answers
from secateur.ir.graph import Graph
from secateur.ir.runner import Meaning
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context, Progress, silent, unlimited
from secateur.passes.facts import Facts
from secateur.passes.layers.answers import enough, some_samples
from secateur.passes.manifest import Manifest
from secateur.passes.mix.apply import Means, Plan, put_into_effect
from secateur.passes.mix.options import Option
from secateur.passes.report import Entry

_SPARSE = Option(None, sparse=True)


@dataclass
class Trials:
    """Tries plans on a few samples, rounding to the nearest; 2:4 weights are made once for each layer, on all the data.

    Attributes:
        graph: the model, which stays as it is.
        answers: of the model, to some samples.
        context: all the data.
        few: these samples.
        means: of the plans that are tried.
        progress: told how far it is.
        sparse: by the name of a weight, the constants that its becoming 2:4 changes; `schemes` are their marks.
    """

    graph: Graph
    answers: Answers
    context: Context
    few: Context
    means: Means
    progress: Progress = silent
    sparse: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    schemes: dict[str, SparsityScheme | None] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, outputs: Mapping[str, Meaning], samples: int, means: Means, context: Context) -> Trials:
        """Asks the model.

        Raises:
            DataError: there is no data, or none that fits.
            BackendError: there is no runtime.
            GraphError: no output is made of real numbers.
        """
        who = "mix-precision"
        runner = context.needed_runner(who)
        samples = min(samples, enough(graph, outputs, context, who)) if outputs else samples
        part = some_samples(graph, samples, context, who)
        quiet = replace(context, progress=silent, fuel=unlimited, original=None, reference=None)
        few = replace(quiet, source=part.source)
        nearest = replace(means, rounding="nearest", quick=True)
        return cls(graph, Answers(part, outputs, runner), quiet, few, nearest, context.progress)

    def error(self, plan: Plan) -> float:
        """How far the answers are off: divergence of beliefs in nats, or relative squared error of numbers."""
        return self.answers.error(self.graph_of(plan))

    def graph_of(self, plan: Plan) -> Graph:
        """A copy of the model after a plan, rounded to the nearest."""
        copy = self.graph.clone()
        for name, option in plan.items():
            if option.sparse:
                self._write(copy, name)
        quantized = {name: replace(option, sparse=False) for name, option in plan.items() if option.format is not None}
        put_into_effect(copy, quantized, self.means, _inside(self.few, copy))
        return copy

    def final(self, plan: Plan, means: Means) -> float:
        """The error of what the passes really make of a plan."""
        copy = self.graph.clone()
        put_into_effect(copy, plan, means, _inside(self.context, copy))
        return self.answers.error(copy)

    def _write(self, copy: Graph, name: str) -> None:
        if name not in self.sparse:
            made = self.graph.clone()
            put_into_effect(made, {name: _SPARSE}, self.means, _inside(self.context, made))
            self.sparse[name] = {
                value.name: value.const
                for value in made.constants()
                if value.const is not None and _constant(self.graph, value.name) is not value.const
            }
            self.schemes[name] = SparsityScheme.of(made[name])
        for other, tensor in self.sparse[name].items():
            # A bias that was not there before is left out: what it makes up for is small.
            if _constant(copy, other) is not None:
                copy[other].set_const(tensor)
        if (scheme := self.schemes[name]) is not None:
            scheme.mark(copy[name])


def _constant(graph: Graph, name: str) -> Tensor | None:
    value = graph.get(name)
    return None if value is None else value.const


def _inside(context: Context, graph: Graph) -> Context:
    """For a pass inside of a trial: nobody reads its report."""
    return replace(context, facts=Facts(graph), report=Entry(""), manifest=Manifest())
