"""The `mix-precision` pass: bits and zeros layer by layer, as a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from secateur.calib.capture import Part
from secateur.calib.output_error import meanings
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.known_targets import find_target
from secateur.ir.rules.known import Known
from secateur.ir.runner import RunnerFactory
from secateur.ir.sizes import input_shapes, with_sizes
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.mix.apply import Means, Plan, put_into_effect
from secateur.passes.mix.budget import Budget
from secateur.passes.mix.candidates import Choosable, candidates
from secateur.passes.mix.costs import Costs, Device, byte_costs, latency_costs, total_bytes, weight_bytes
from secateur.passes.mix.importance import IMPORTANCE, Losses
from secateur.passes.mix.options import KEEP, Option
from secateur.passes.mix.plan import ALLOCATORS, Choice, Shelf, meet_cost, meet_error
from secateur.passes.mix.refine import Search, refined
from secateur.passes.mix.trials import Trials
from secateur.passes.prune.choices import Choices
from secateur.passes.quantize.quantize import Quantize
from secateur.passes.report import Row
from secateur.passes.sparsify.elements import Sparsify

METRICS: Choices[Callable[[Graph, RunnerFactory], float]] = Choices("metric", {})
"""What trials go by beside `answers`: (model, what runs models) to a figure, higher is better.

Packages add theirs under the entry point group `secateur.metric`.
"""


@dataclass(frozen=True)
class MixPrecision(Pass):
    """Gives each layer the bits, and the 2:4 zeros, that cost the model's answers least within a budget.

    A layer stays float or becomes one of `options`. How much each option hurts is measured by the answers with this one
    layer changed (no labels: divergence from the dense model's beliefs), or told by mutual information; one option for
    each layer is then chosen by a knapsack, and put into effect by `sparsify` and `quantize`. First and last layers are
    layers as all others: where they are sensitive, they keep their bits.

    After QPruner (Zhou et al. 2024), whose third stage, Bayesian optimisation over whole plans, `trials` turns on.
    """

    name: ClassVar[str] = "mix-precision"
    changes: ClassVar[Facet] = Sparsify.changes | Quantize.changes
    effect: ClassVar[Effect] = Effect.LOSSY

    budget: str = "bytes:0.5"
    """`bytes:0.4`, of the constants in the file; `packed:0.3`, with 2:4 weights counted as TensorRT keeps them;
    `latency:0.7` or `latency:2ms` on `target`; `error:0.01` of the answers, at the fewest packed bytes, or in the least
    time where there is a target. Numbers up to 1 are shares of what the model takes now."""
    options: tuple[str, ...] = ("int8", "int4", "2:4", "2:4+int8")
    """What a layer may become beside float: formats of `quantize`, 2:4, or both, such as 2:4+fp8."""
    importance: Literal["sensitivity", "mi"] = "sensitivity"
    """What says how much an option hurts: trials, one for each layer and option, or mutual information of a layer's
    output and the prediction (one walk over the data, and crude)."""
    allocation: Literal["knapsack", "greedy"] = "knapsack"
    """How options are chosen: the best choice (over cells of the budget), or step by step along convex hulls."""
    samples: int = 64
    """So many samples answer in a trial, at the most."""
    trials: int = 0
    """Whole plans to try by Bayesian optimisation; needs optuna."""
    metric: str = "answers"
    """What these go by: nearness to the dense model's answers, or a function that a package adds."""
    target: str = ""
    """Where latency counts, as in `advise`: l4, 8.9, a .toml file."""
    times: str = ""
    """A file of measured kernels, which count instead of the roofline."""
    batch: int = 1
    """Samples in a run, for latency."""
    calibration: str = "auto"
    """As in `quantize`."""
    clip: Literal["auto", "max", "mse"] = "auto"
    """As in `quantize`."""
    rounding: str = "auto"
    """As in `quantize`, for the plan that is chosen; trials round to the nearest."""
    positions: int = 64
    """Output positions sampled of each image, more where images are few (`reads.ROWS`); 0 takes all."""

    def __post_init__(self) -> None:
        budget = Budget.parse(self.budget)
        options = self._options()
        if len(options) < 2:
            raise ValueError("options must name at least one thing that a layer may become, such as int8")
        if self.metric != "answers":
            METRICS.check(self.metric)
        if self.samples < 1 or self.batch < 1 or self.trials < 0 or self.positions < 0:
            raise ValueError("samples and batch must be at least 1, trials and positions not negative")
        if budget.resource == "latency" and not self.target:
            raise ValueError(f"budget={self.budget} needs a target, such as target=l4")
        if budget.resource == "error" and self.importance == "mi":
            raise ValueError("budget=error needs importance=sensitivity: mutual information is no error of answers")
        if budget.resource == "error" and self.trials:
            raise ValueError("budget=error takes no trials: plans of the same error differ by what they cost alone")
        if self.importance != "mi" or self.trials:
            for one in options:
                if not one.runs:
                    raise ValueError(
                        f"{one} runs on TensorRT alone and cannot be tried: importance=mi, trials=0 do not"
                    )
        # These options are checked where they belong.
        Quantize(calibration=self.calibration, clip=self.clip, rounding=self.rounding, positions=self.positions)

    def run(self, graph: Graph, context: Context) -> int:
        """Chooses for every layer, and has it done; returns how many rewrites that took."""
        known, budget = context.facts.get(known_fact), Budget.parse(self.budget)
        context.needed_source(self.name)
        options = self._options()
        if budget.resource == "bytes" and any(one.sparse for one in options):
            options = tuple(one for one in options if not one.sparse)
            if options == (KEEP,):
                raise RefusedError(
                    "2:4 takes no fewer bytes of a file", hint="budget=packed counts what TensorRT keeps"
                )
            context.note("2:4 takes no fewer bytes of a file, and was not tried: budget=packed counts what runs")
        chosen = candidates(known, options, context)
        if not chosen:
            raise RefusedError("no layer has a choice", hint="see the notes of `quantize` on why weights stay in float")
        work = _Work(self, graph, chosen, budget, self._trials(known, context), self._costs(known, chosen, context))
        choice = work.choose()
        return work.report(choice, put_into_effect(graph, work.plan(choice), self._means(), context), context)

    def _options(self) -> tuple[Option, ...]:
        return tuple(dict.fromkeys((KEEP, *(Option.parse(text) for text in self.options))))

    def _means(self) -> Means:
        return Means(self.calibration, self.clip, self.rounding, self.positions)

    def _trials(self, known: Known, context: Context) -> Trials:
        return Trials.of(known.graph, meanings(known), self.samples, self._means(), context)

    def _costs(self, known: Known, chosen: Sequence[Choosable], context: Context) -> Costs:
        if not self._counts_time():
            return byte_costs(known.graph, chosen, packed=Budget.parse(self.budget).resource != "bytes")
        target = find_target(self.target)
        times = load_kernel_times(self.times, target) if self.times else None
        graph = _sized(known.graph, self.batch, context)
        return latency_costs(known_fact(graph), chosen, Device(target, times))

    def _counts_time(self) -> bool:
        resource = Budget.parse(self.budget).resource
        return resource == "latency" or (resource == "error" and bool(self.target))


def _sized(graph: Graph, batch: int, context: Context) -> Graph:
    """The model with the sizes that it has on the data, but for the batch."""
    _, first = next(Part(graph, context.needed_source("budget=latency")).walk())
    shapes = {}
    for name, stated in input_shapes(graph).items():
        if (array := first.feeds.get(name)) is not None:
            is_open = bool(stated) and not isinstance(stated[0], int)
            shapes[name] = (batch, *array.shape[1:]) if is_open else array.shape
    return with_sizes(graph, shapes)


@dataclass(frozen=True)
class _Work:
    """One run: what there is to choose from, what it loses, and what it costs."""

    how: MixPrecision
    graph: Graph
    chosen: Sequence[Choosable]
    budget: Budget
    trials: Trials
    costs: Costs

    def plan(self, choice: Choice) -> Plan:
        """By names, what changes."""
        pairs = zip(self.chosen, choice, strict=True)
        return {one.candidate.name: one.options[index] for one, index in pairs if one.options[index] != KEEP}

    def choose(self) -> Choice:
        """The choice."""
        self._refuse_early()
        shelf = self.shelf
        if self.budget.resource != "error":
            allowed = self.budget.allowed(self.costs.now)
            choice, limit = meet_cost(shelf, allowed, self.costs.rest, self._measured, self.budget.written)
            return self._refined(choice, limit) if self.how.trials else choice
        limit = self.budget.error

        def measured(choice: Choice) -> float:
            return self.trials.error(self.plan(choice))

        for choice in meet_error(shelf, limit, measured):
            # What passes make of a plan on all the data is judged, too.
            if not any(choice) or self.trials.final(self.plan(choice), self.how._means()) <= limit:
                return choice
        raise AssertionError("a plan that changes nothing has no error")

    @cached_property
    def shelf(self) -> Shelf:
        """Losses and costs of all options."""
        losses = IMPORTANCE[self.how.importance](self.trials, self.chosen)
        return Shelf(losses, self.costs.options, ALLOCATORS[self.how.allocation])

    def _refuse_early(self) -> None:
        """Before anything takes time."""
        if self.budget.resource != "error":
            free: list[Losses] = [(0.0,) * len(row) for row in self.costs.options]
            shelf = Shelf(free, self.costs.options, ALLOCATORS["greedy"])
            meet_cost(shelf, self.budget.allowed(self.costs.now), self.costs.rest, lambda _: 0.0, self.budget.written)

    def _measured(self, choice: Choice) -> float:
        """What the model costs after a choice."""
        if self.budget.resource == "latency":
            return self.costs.rest + sum(row[index] for row, index in zip(self.costs.options, choice, strict=True))
        return total_bytes(self.trials.graph_of(self.plan(choice)), packed=self.budget.resource == "packed")

    def _refined(self, start: Choice, limit: float) -> Choice:
        shelf, allowed = self.shelf, self.budget.allowed(self.costs.now)
        context, metric = self.trials.context, self.how.metric
        runner = context.needed_runner(self.how.name)

        def score(choice: Choice) -> float:
            plan = self.plan(choice)
            if self._measured(choice) > allowed * (1 + 1e-9):
                return -float("inf")
            if metric == "answers":
                return -self.trials.error(plan)
            return float(METRICS[metric](self.trials.graph_of(plan), runner))

        search = Search(
            len(self.chosen), lambda factors: shelf.within_cost(limit, factors), score, self.how.trials, context.seed
        )
        best, scores = refined(search)
        return best if scores[best] > scores.get(start, -float("inf")) else start

    def report(self, choice: Choice, columns: dict[str, Row], context: Context) -> int:
        """A row for each layer that had a choice; returns how many were changed."""
        for one, index, losses in zip(self.chosen, choice, self.shelf.losses, strict=True):
            option = one.options[index]
            said = columns.get(one.candidate.name, {})
            packed = self.budget.resource != "bytes"
            bytes_of = [weight_bytes(one.candidate, each, packed=packed) for each in (KEEP, option)]
            extra = {key: said[key] for key in ("sqnr_db", "energy_kept", "error") if key in said}
            context.row(
                weight=one.candidate.name,
                op=one.candidate.uses[0].op.op_type,
                chosen=str(option),
                before=round(bytes_of[0]),
                after=round(bytes_of[1]),
                sensitivity=losses[index],
                **extra,
            )
        plan = self.plan(choice)
        if not all(option.runs for option in plan.values()):
            return len(plan)
        # Measured on what came out, not on a trial.
        error, unit = self.trials.answers.error(self.graph), "nats"
        if all(meaning == "numbers" for meaning in self.trials.answers.meanings.values()):
            unit = "of the energy of the outputs"
        context.note(f"answers are off by {error:.4g} {unit} on the samples of the trials")
        return len(plan)
