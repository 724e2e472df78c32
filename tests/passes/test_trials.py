"""What taking a share of one group does to the answers, against models pruned in that group alone; and its use."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.output_error import Answers, meanings
from secateur.calib.sources import open_source
from secateur.inspection import macs_of
from secateur.ir import Graph
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.rules.known import Known
from secateur.passes import Context, Result, run_pipeline
from secateur.passes.cleanup.shapes import known
from secateur.passes.layers.answers import enough, some_samples
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.prune.trials import CRITERION, TRIED, tried
from secateur.passes.report import Size

_RUNNER = partial(OnnxRuntimeRunner, threads=1)
MODELS = zoo("small")
PLAIN = "align=1, positions=0"
TRIAL = "ratio=0.5, allocation=sensitivity"


def context_of(graph: Graph, batches: int = 6) -> Context:
    return Context(runner=_RUNNER, source=open_source([Batch(random_feeds(graph, seed)) for seed in range(batches)]))


def prune(graph: Graph, options: str) -> Result:
    return run_pipeline(graph, parse_pipeline(f"prune{{{PLAIN}, {options}}}"), context_of(graph))


def told(result: Result) -> dict[str, tuple[int, int, float]]:
    """By group its size, what is kept, and the harm; of single units nothing is known."""
    rows = [row for row in result.report.entries[0].rows if "harm" in row]
    return {str(row["group"]): (int(str(row["size"])), int(str(row["kept"])), float(str(row["harm"]))) for row in rows}


def errors_alone(graph: Graph, sizes: dict[str, int], folder: Path) -> dict[str, float]:
    """What the answers lose where the pass prunes one group, and keeps the others whole: as harm is counted."""
    context, outputs, found = context_of(graph), meanings(known(graph)), {}
    samples = enough(graph, outputs, context, "the test")
    answers = Answers(some_samples(graph, samples, context, "the test"), outputs, _RUNNER)
    for name, size in sizes.items():
        file = folder / "units.json"
        file.write_text(json.dumps({name: size - tried(size)}))
        pruned = prune(graph, f'units="{file}", criterion={CRITERION}, repair=none').graph
        found[name] = answers.error(pruned) * TRIED / (tried(size) / size)
    return found


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "bert-dynamic", "llama-dynamic", "gpt2"])
def test_harms_are_those_of_pruning_one_group(name: str, tmp_path: Path) -> None:
    graph = MODELS[name]()
    found = told(prune(graph, "dims=ffn, ratio=0.5, allocation=sensitivity" if name == "gpt2" else TRIAL))
    assert len(found) > 1
    sizes = {name: size for name, (size, _, _) in list(found.items())[:4]}
    for name, error in errors_alone(graph, sizes, tmp_path).items():
        assert found[name][2] == pytest.approx(error, rel=0.02, abs=1e-7), name


@pytest.mark.parametrize("name", ["resnet50", "bert-dynamic", "llama-dynamic", "vit"])
def test_the_more_harm_the_less_goes(name: str) -> None:
    graph = MODELS[name]()
    options = "dims=ffn" if name != "resnet50" else "dims=channels"
    first, again = (prune(graph, f"{options}, ratio=0.3, allocation=sensitivity") for _ in range(2))
    assert told(first) == told(again)
    rows = sorted(told(first).values(), key=lambda row: row[2])
    gone = [(size - kept) / size for size, kept, _ in rows]
    assert len(rows) > 1 and all(more >= less - 1 / rows[0][0] for more, less in pairwise(gone))
    assert gone[0] > gone[-1]


@pytest.mark.parametrize("budget", ["params:0.7", "macs:0.6", "bytes:0.8"])
def test_budgets_are_met(budget: str) -> None:
    graph = MODELS["resnet50"]()
    result = prune(graph, f"dims=channels, budget={budget}, allocation=sensitivity")
    resource, share = budget.split(":")
    if resource == "macs":
        left = macs_of(result.graph) / macs_of(graph)
    else:
        name = "parameters" if resource == "params" else "bytes"
        left = getattr(Size.of(result.graph), name) / getattr(Size.of(graph), name)
    assert float(share) - 0.08 < left <= float(share) + 1e-6


def test_how_many_go_for_a_try() -> None:
    assert [tried(size) for size in (1, 2, 3, 5, 8, 10, 64, 1536)] == [0, 1, 1, 1, 2, 2, 13, 307]


def test_answers_of_language_models_are_counted_before_they_are_run() -> None:
    graph = MODELS["llama-dynamic"]()

    def never(*_: object, **__: object) -> OnnxRuntimeRunner:
        raise AssertionError("the file says how many there are")

    context = Context(runner=never, source=context_of(graph).source)
    outputs = meanings(Known(graph))
    named = enough(graph, outputs, context, "the test")
    for value in graph.outputs:
        value.type = None
    assert named == enough(graph, outputs, context_of(graph), "the test") == 128


def test_without_data_or_answers_it_is_refused() -> None:
    graph = MODELS["vgg16"]()
    pipeline = parse_pipeline("prune{allocation=sensitivity}")
    with pytest.raises(RefusedError, match="needs calibration data"):
        run_pipeline(graph, pipeline, Context())
    with pytest.raises(TextError, match="ranks are not"):
        parse_pipeline("factorize{allocation=sensitivity}")
