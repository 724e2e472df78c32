"""Criteria that are bred and data that is mixed, as a user has them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net

import secateur as sc

IMAGES = np.random.default_rng(0).normal(size=(10, 4, 6, 6)).astype(np.float32) * np.array([3, 1, 0.2, 0.1]).reshape(
    1, 4, 1, 1
).astype(np.float32)


def _net() -> sc.Graph:
    return Net(4, 6).conv(8).norm().op("Relu").conv(4).done()


def test_a_bred_criterion_can_be_used() -> None:
    how = sc.CriterionSearch(population=8, evaluations=40)
    found = sc.search_criterion(_net(), IMAGES, "50%", how, scope="row", batch_size=5)
    assert found == sc.search_criterion(_net(), IMAGES, "50%", how, scope="row", batch_size=5)
    recipe = f'sparsify{{pattern=50%,scope=row,criterion="expr:{found.text}",repair=none}}'
    result = sc.compress(_net(), recipe, IMAGES)
    zeros = [np.count_nonzero(one.const.numpy() == 0) for one in result.graph.constants() if one.const is not None]
    assert sum(zeros) == (8 * 36 + 4 * 72) / 2


def test_a_search_about_gradients_takes_torch() -> None:
    pytest.importorskip("torch")
    how = sc.CriterionSearch(population=4, evaluations=6, symbols=("W", "G"))
    assert sc.search_criterion(_net(), IMAGES, "50%", how).error < 1


def test_nothing_is_searched_where_nothing_can_be_sparse() -> None:
    with pytest.raises(sc.SecateurError, match="no layer"):
        sc.search_criterion(Net(3, 6).conv(2).done(), IMAGES[:, :3], "2:4")
    with pytest.raises(TypeError, match="steps"):
        sc.search_criterion(_net(), IMAGES, steps=3)  # type: ignore[call-arg]


def test_sets_are_mixed_and_handed_on() -> None:
    net = Net(4, 6).conv(8).done()
    data = sc.mixed_source(net, IMAGES, {"x": 0.1 * IMAGES[:5]}, share=0.25, batch_size=5)
    weights = [batch.weight for batch in data]
    # Half as many samples, a tenth as loud, a third of the other's share.
    np.testing.assert_allclose(weights[-1] / weights[0], (0.25 / 0.75) * 2 * 100, rtol=0.5)
    assert sc.compress(net, "sparsify{pattern=50%}", data).report.data == data.name
