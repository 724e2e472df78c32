"""Two sets of data as one: each counts by its share, whatever its size and loudness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Source
from secateur.calib.capture import capture
from secateur.calib.gram import Gram
from secateur.calib.mixing import energies, mixed
from secateur.calib.sources import open_source
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import DataError
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

Array = np.ndarray[Any, Any]
WIDTH = 8


def _net(layers: int = 1) -> Graph:
    random, graph = np.random.default_rng(0), Graph("net")
    value = add_input(graph, "x", ["n", WIDTH])
    for _ in range(layers):
        weight = add_constant(graph, "w", random.normal(size=(WIDTH, WIDTH)).astype(np.float32))
        value = emit(graph, "MatMul", [value, weight]).output
    graph.set_interface(outputs=[value])
    graph.verify()
    return graph


def _source(seed: int, count: int = 20, columns: slice = slice(None), scale: float = 1.0) -> Source:
    rows = np.zeros((count, WIDTH), np.float32)
    rows[:, columns] = scale * np.random.default_rng(seed).normal(size=rows[:, columns].shape)
    return open_source({"x": rows}, batch_size=7)


class _Summed:
    def __init__(self) -> None:
        self.gram = Gram(WIDTH)

    def update(self, array: Array, weight: float) -> None:
        self.gram.update(array, weight=weight)


def _gram(source: Source) -> Array:
    seen = _Summed()
    capture(_net(), source, OnnxRuntimeRunner, {"x": [seen]})
    return seen.gram.xx


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(1, 30), st.floats(0.01, 100.0))
def test_traces_are_as_the_shares(share: float, count: int, scale: float) -> None:
    general, domain = _source(0), _source(1, count, scale=scale)
    one, other = _gram(general), _gram(domain)
    wanted = (1 - share) * one / np.trace(one) + share * other / np.trace(other)
    found = _gram(mixed(_net(), general, domain, OnnxRuntimeRunner, share))
    np.testing.assert_allclose(found / np.trace(found), wanted, atol=1e-6)


def test_sets_may_have_any_size() -> None:
    general, domain = _source(0), _source(1)
    twice = open_source([batch for _ in range(2) for batch in domain])
    one, other = (_gram(mixed(_net(), general, source, OnnxRuntimeRunner, 0.3)) for source in (domain, twice))
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)


def _masks(source: Source, layers: int = 2) -> list[Array]:
    context = Context(runner=OnnxRuntimeRunner, source=source)
    options = "pattern=50%,criterion=wanda,repair=none,worthwhile=false"
    result = run_pipeline(_net(layers), parse_pipeline(f"sparsify{{{options}}}"), context)
    return [value.const.numpy() != 0 for value in result.graph.constants() if value.const is not None]


def test_at_either_end_there_is_one_set() -> None:
    general, domain = _source(0), _source(1, 13)
    for share, source in ((0.0, general), (1.0, domain)):
        both = mixed(_net(2), general, domain, OnnxRuntimeRunner, share)
        assert [batch.weight for batch in both] == [1.0] * len(list(source))
        for one, other in zip(_masks(both), _masks(source), strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_the_same_may_be_mixed_as_one_likes() -> None:
    """With whole fifths, so that the same samples are held out of both."""
    wanted = _masks(_source(0))
    for share in (0.2, 0.5, 0.9):
        for one, other in zip(
            _masks(mixed(_net(2), _source(0), _source(0), OnnxRuntimeRunner, share)), wanted, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_the_more_the_domain_counts_the_more_of_what_it_reads_stays() -> None:
    """Energy of the general set is in the first columns only, that of the domain in the last."""
    general, domain = _source(0, columns=slice(0, 4)), _source(1, columns=slice(4, 8), scale=30.0)
    kept = []
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        (mask,) = _masks(mixed(_net(), general, domain, OnnxRuntimeRunner, share), layers=1)
        kept.append(int(mask[4:].sum()))
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, 32)
    assert 0 < kept[2] < 32


def test_layers_that_disagree_meet_in_the_middle() -> None:
    """The second layer of this net reads what the first makes: each has its own opinion of which set is louder."""
    net = _net(2)
    general, domain = _source(0), _source(1, columns=slice(0, 2))
    ours, theirs = (energies(net, one, OnnxRuntimeRunner) for one in (general, domain))
    ratios = [ours[name] / theirs[name] for name in ours]
    assert len(ratios) == 2
    found = mixed(net, general, domain, OnnxRuntimeRunner, 0.5)
    np.testing.assert_allclose(found.counts[1] / found.counts[0], np.sqrt(ratios[0] * ratios[1]))
    assert found.name == f"{general.name} and {domain.name}"


def test_silence_cannot_be_mixed() -> None:
    with pytest.raises(DataError, match="zeros"):
        mixed(_net(), _source(0), _source(1, scale=0.0), OnnxRuntimeRunner)
    with pytest.raises(ValueError, match="share"):
        mixed(_net(), _source(0), _source(1), OnnxRuntimeRunner, 1.5)
