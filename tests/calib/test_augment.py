"""Variations of calibration data: what may change does, what must not does not, and every walk gives the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.graphs import Net
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.augment import Role, augmented, roles
from secateur.calib.batches import Batch, Source
from secateur.calib.sources import open_source
from secateur.ir import DataType

TOKENS = Role("tokens", 1000, ("batch", "length"))
MASK = Role("other", 0, ("batch", "length"))
IMAGE = Role("image", 0, (8, 3, 16, 12))


def _texts() -> list[dict[str, np.ndarray]]:
    """Each text begins with 1, ends with 2, and has a 7 somewhere."""
    random = np.random.default_rng(0)
    tokens = random.integers(10, 1000, (8, 20))
    tokens[:, 0], tokens[:, -1], tokens[np.arange(8), random.integers(1, 19, 8)] = 1, 2, 7
    return [{"ids": tokens, "mask": np.ones_like(tokens), "position": np.tile(np.arange(20), (8, 1))}]


def _walk(source: Source) -> list[Batch]:
    return list(source)


def test_without_copies_it_is_the_source_itself() -> None:
    source = open_source(_texts())
    assert augmented(source, {"ids": TOKENS}, 0) is source


def test_tokens_that_every_sample_has_stay_and_so_do_positions() -> None:
    known = {"ids": TOKENS, "mask": MASK, "position": TOKENS}
    walked = _walk(augmented(open_source(_texts()), known, 6))
    first = walked[0].feeds
    assert len(walked) == 7
    np.testing.assert_array_equal(first["ids"], _texts()[0]["ids"])
    for batch in walked[1:]:
        ids = batch.feeds["ids"]
        assert {array.shape for array in batch.feeds.values()} == {ids.shape}
        assert (ids[:, 0] == 1).all() and (ids[:, -1] == 2).all()
        assert ((ids >= 0) & (ids < 1000)).all()
        inner = slice(1, ids.shape[1] - 1)
        if ids.shape == first["ids"].shape:
            changed = (ids != first["ids"])[:, inner].mean()
            assert 0.1 < changed < 0.95
            kept = first["ids"] == 7
            assert (ids[kept] == 7).all()
            np.testing.assert_array_equal(batch.feeds["position"], first["position"])
    lengths = {batch.feeds["ids"].shape[1] for batch in walked}
    assert min(lengths) < 20


def test_where_the_model_takes_one_length_every_variation_has_it() -> None:
    known = {"ids": Role("tokens", 1000, (8, 20)), "mask": Role("other", 0, (8, 20))}
    assert {batch.feeds["ids"].shape for batch in augmented(open_source(_texts()), known, 5)} == {(8, 20)}


def test_images_stay_images_of_about_the_same_brightness() -> None:
    images = np.random.default_rng(0).uniform(1, 2, (8, 3, 16, 12)).astype(np.float32)
    walked = _walk(augmented(open_source({"x": images}, batch_size=8), {"x": IMAGE}, 3))
    for batch in walked[1:]:
        found = batch.feeds["x"]
        assert found.shape == images.shape and found.dtype == images.dtype
        assert 0.7 * images.min() <= found.min() and found.max() <= 1.2 * images.max() + 1e-5
        assert (found != images).mean() > 0.9


def test_every_walk_and_every_seed() -> None:
    source = open_source(_texts())
    one, again, other = (augmented(source, {"ids": TOKENS, "mask": MASK}, 3, seed) for seed in (0, 0, 1))
    for left, right in zip(_walk(one), _walk(one), strict=True):
        np.testing.assert_array_equal(left.feeds["ids"], right.feeds["ids"])
    for left, right in zip(_walk(one), _walk(again), strict=True):
        np.testing.assert_array_equal(left.feeds["ids"], right.feeds["ids"])
    assert any(
        a.feeds["ids"].tolist() != b.feeds["ids"].tolist() for a, b in zip(_walk(one), _walk(other), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm", {"input_ids": "tokens", "attention_mask": "other", "token_type_ids": "other"}),
        ("efficientnet-lite0", {"inputs": "image"}),
        ("gpt2-fused", {"input_ids": "other", "attention_mask": "other"}),
    ],
)
def test_roles_are_seen_from_the_graph_and_variations_run(name: str, expected: dict[str, str]) -> None:
    """(97 words are too few to be told from classes.)"""
    graph = zoo("small", "real")[name]()
    found = roles(graph)
    assert {input_name: role.kind for input_name, role in found.items()} == expected
    source = open_source([random_feeds(graph)])
    with OnnxRuntimeRunner(graph) as runner:
        for batch in augmented(source, found, 3):
            outputs = runner.run(batch.feeds)
            assert all(np.isfinite(array).all() for array in outputs.values())


def test_what_looks_up_two_tables_is_varied_within_the_smaller() -> None:
    net = Net("two tables")
    ids = net.input("ids", "n", 8, dtype=DataType.INT64)
    values = [net.op("Gather", net.weight(f"table_{rows}", rows, 4), ids) for rows in (400, 300)]
    graph = net.done((net.op("Add", *values), ("n", 8, 4)))
    assert roles(graph)["ids"] == Role("tokens", 300, ("n", 8))
    tokens = np.random.default_rng(0).integers(0, 300, (40, 8))
    batches = augmented(open_source({"ids": tokens}, batch_size=20), roles(graph), 3)
    with OnnxRuntimeRunner(graph) as runner:
        for batch in batches:
            runner.run(batch.feeds)
