"""Criteria that are bred for a model and its data: `search_criterion`."""

from __future__ import annotations

from typing import Unpack

from secateur.compression import CLEAN, Running
from secateur.feeding import ModelLike, graph_of, open_data, refuse_unknown
from secateur.ir.errors import RefusedError
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import make_pass
from secateur.passes.sparsify.patterns import Scope, parse_pattern
from secateur.passes.sparsify.search import CriterionSearch, FoundCriterion
from secateur.passes.sparsify.search_layers import search_layers
from secateur.running import differentiator_of, runner_of


def search_criterion(
    model: ModelLike,
    data: object,
    pattern: str = "2:4",
    how: CriterionSearch | None = None,
    *,
    scope: Scope = "layer",
    **loading: Unpack[Running],
) -> FoundCriterion:
    """The formula of weights, inputs and gradients that chooses best which weights of a model stay.

        found = sc.search_criterion("model.onnx", "calib.npz", "50%", sc.CriterionSearch(evaluations=300))
        sc.compress("model.onnx", f'sparsify{{pattern=50%,criterion="expr:{found.text}",repair=none}}', "calib.npz")

    Args:
        model: a graph, or the path of an ONNX file; `clean` runs on a copy first, as `compress` has it.
        data: calibration data; whatever `secateur.open_source` takes.
        pattern: of the masks, such as 2:4 or 50%.
        how: budget, seed, and what formulas are about: with G among the symbols, gradients (which takes torch).
        scope: what a share of zeros is counted over.
        loading: `batch_size`, `limit` (samples at most) and `runner`, as `compress` has them.

    Raises:
        DataError: the data does not fit the model.
        RefusedError: no layer can have the pattern, or no formula gives numbers.
        BackendError: there is no such runner, or it cannot run the model.
    """
    refuse_unknown(loading, Running, "search_criterion")
    runner = loading.get("runner", "onnxruntime")
    graph = run_pipeline(graph_of(model), [make_pass(CLEAN)], Context()).graph
    source = open_data(graph, data, batch_size=loading.get("batch_size"), limit=loading.get("limit"))
    wanted, asked = parse_pattern(pattern, scope), how or CriterionSearch()
    context = Context(
        runner=runner_of(runner), differentiator=differentiator_of(runner), source=source, seed=asked.seed
    )
    try:
        return search_layers(graph, context, wanted, asked)
    except ValueError as error:
        raise RefusedError(str(error), hint="`secateur inspect` shows the layers") from error
