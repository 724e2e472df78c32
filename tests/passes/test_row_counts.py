"""Rows that a norm divides by their size: large ones count less, in moments and in fits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import Graph, Tensor
from secateur.ir.rules.weights import weight_uses
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.layers.evidence import HELD_OUT, Streams, gather
from secateur.passes.layers.row_counts import LEAST, RowCounts
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def _normalized(is_normalized: bool = True) -> Graph:
    """A residual block whose inputs and sum are normalised: what each row says does not go by its size."""
    net = Net("normalized", seed=3)
    trunk = net.op("MatMul", net.input("x", "samples", 6, 8), net.weight("stem", 8, 16), to="trunk")
    read = net.op("LayerNormalization", trunk, net.scale("gain", 16), axis=-1)
    hidden = net.op("Relu", net.op("MatMul", read, net.weight("up", 16, 24)), to="hidden")
    total = net.op("Add", trunk, net.op("MatMul", hidden, net.weight("down", 24, 16), to="branch"), to="total")
    if is_normalized:
        total = net.op("LayerNormalization", total, net.scale("gain2", 16), axis=-1)
    return net.done((net.op("MatMul", total, net.weight("head", 16, 4), to="y"), ("samples", 6, 4)))


def _data(large: float = 1.0, count: int = 40) -> np.ndarray:
    """[samples, 6, 8], the first position of each of them `large` times as large."""
    x = np.random.default_rng(0).normal(size=(count, 6, 8)).astype(np.float32)
    x[:, 0] *= large
    return x


def _values(graph: Graph, x: np.ndarray, *names: str) -> list[np.ndarray]:
    with _RUNNER(graph, outputs=list(names)) as runner:
        found = runner.run({"x": x})
    return [found[name].reshape(-1, found[name].shape[-1]) for name in names]


def test_rows_count_inversely_to_the_larger_size_but_never_without_bounds() -> None:
    wanted = np.array([[3.0, 3.0], [1.0, 1.0], [0.0, 0.0], [2.0, -2.0]], np.float32)
    made = np.array([[1.0, 1.0], [50.0, -50.0], [0.0, 0.0], [2.0, 2.0]], np.float32)
    np.testing.assert_allclose(RowCounts().of(wanted, made)[:, 0], [2.5 / 3, 2.5 / 50, 1 / LEAST, 2.5 / 2])
    assert (RowCounts().of(0 * wanted, 0 * made) == 1 / LEAST).all()


def test_what_counts_once_is_what_is_usual_in_the_first_batch() -> None:
    counts, rows = RowCounts(), np.array([[2.0], [2.0], [8.0]])
    np.testing.assert_allclose(counts.of(rows, rows)[:, 0], [1, 1, 1 / 4])
    np.testing.assert_allclose(counts.of(4 * rows, rows)[:, 0], [1 / 4, 1 / 4, 1 / 16])


@pytest.mark.parametrize("is_normalized", [True, False])
def test_moments_are_those_of_rows_as_they_count(is_normalized: bool) -> None:
    """The twin: sums over the rows themselves. Where nothing normalises, all of them count the same."""
    dense, x = _normalized(is_normalized), _data(large=30.0)
    present = dense.clone()
    noise = 0.3 * np.random.default_rng(1).normal(size=(16, 24)).astype(np.float32)
    weight = present["up"]
    assert weight.const is not None
    weight.set_const(Tensor(weight.const.numpy() + noise, weight.const.dtype))
    use = next(one for one in weight_uses(known(present)) if one.weight.name == "down")
    context = Context(runner=_RUNNER, source=open_source([Batch({"x": x[:25]}), Batch({"x": x[25:]})]), seed=0)
    (found,) = gather(Streams.whole(present, dense, context.needed_source("the test")), [use], context, 0)
    hidden, now, shortcut = _values(present, x, "hidden", "total", "trunk")
    (then,) = _values(dense, x, "total")
    counts, batches = RowCounts(), [slice(0, 6 * 25), slice(6 * 25, None)]
    counted = np.concatenate([counts.of(then[part], now[part])[:, 0] for part in batches]).astype(np.float64)
    counted = counted if is_normalized else np.ones_like(counted)
    held = np.repeat(np.arange(len(x)) % HELD_OUT == HELD_OUT - 1, 6)
    for gram, chosen in ((found.fit, ~held), (found.held_out, held)):
        rows, targets, weights = hidden[chosen], (then - shortcut)[chosen], counted[chosen]
        assert gram.count == pytest.approx(weights.sum(), rel=1e-6)
        np.testing.assert_allclose(gram.xx, (rows.T * weights) @ rows, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gram.xy, (rows.T * weights) @ targets, rtol=1e-3, atol=1e-3)


def _relative_errors(result: Result, x: np.ndarray) -> np.ndarray:
    """[rows, outputs] errors of the answers: what enters the last layer is normalised."""
    dense, found = (_values(graph, x, "y")[0] for graph in (_normalized(), result.graph))
    return np.asarray(dense - found)


@pytest.mark.parametrize(
    "passes", ["sparsify{worthwhile=false}", "prune{ratio=0.5, align=1},sparsify{worthwhile=false}"]
)
def test_a_few_huge_rows_do_not_decide_what_the_others_get(passes: str) -> None:
    """Answers do not depend on how large a row is: neither does what is fitted to them, but for rounding."""
    other = _data()
    errors = []
    for large in (1.0, 1e3):
        context = Context(runner=_RUNNER, source=open_source([Batch({"x": _data(large)})]), seed=0)
        errors.append(_relative_errors(run_pipeline(_normalized(), parse_pipeline(passes), context), other))
    plain, huge = (float(np.square(one).mean()) for one in errors)
    assert huge < 1.5 * plain
