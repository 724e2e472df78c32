"""Ways to spend bits on layers: the oracles of Kuzmin et al. 2023, on matrices and on a small model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secateur.calib.solvers.element_masks import keep_share
from secateur.calib.solvers.grids import INT8, nearest, scales_by_range
from secateur.calib.solvers.spending import decibels, sqnr
from secateur.passes.mix.advice import verdict_of
from secateur.passes.mix.spending import WAYS, Energies, Layer, spend


def _layer(weight: np.ndarray, seed: int = 0, rows: int = 400, product: bool = True) -> Layer:
    random = np.random.default_rng(seed)
    columns = weight.shape[1]
    mixing = np.eye(columns) + 0.3 * random.normal(size=(columns, columns))
    grams = []
    for _ in range(2):
        x = random.normal(size=(rows, columns)) @ mixing
        grams.append(x.T @ x)
    return Layer(weight.astype(np.float64), *grams, columns, product)


def _found(layer: Layer) -> dict[str, Energies]:
    return {way.name: one for way, one in spend(layer)}


def _db(one: Energies) -> tuple[float, float, float]:
    return (
        decibels(one.weight_error / one.weight),
        decibels(one.output_error / one.output),
        decibels(one.least / one.output),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("columns", [8, 32, 64])
def test_no_way_is_better_than_its_bound(columns: int, seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(16, columns))
    found = _found(_layer(weight, seed))
    assert len(found) >= 14
    for name, one in found.items():
        assert 0 <= one.least <= one.output_error * (1 + 1e-9), name


@pytest.mark.parametrize("seed", range(3))
def test_what_looks_at_the_data_is_ahead_of_what_does_not(seed: int) -> None:
    """On correlated inputs, of which there are many: by outputs, not by weights."""
    found = _found(_layer(np.random.default_rng(seed).normal(size=(24, 48)), seed, rows=4000))
    for better, worse in (
        ("int4 gptq", "int4 clipped"),
        ("50 % SparseGPT, least squares", "50 % magnitude"),
        ("2:4 SparseGPT, least squares", "2:4 magnitude"),
        ("75 % SparseGPT, least squares", "75 % magnitude"),
    ):
        assert found[better].output_error < found[worse].output_error
        assert found[better].weight_error > found[worse].weight_error


def test_normal_weights_are_those_of_the_paper() -> None:
    """One scale a row of many weights: 40.6 dB in 8 bits, 19.3 in 4, 11.5 without half of them, 5.6 with a quarter."""
    weight = np.random.default_rng(0).normal(size=(16, 1024))
    layer = Layer(weight, np.eye(1024), np.eye(1024), 1024, product=False)
    wanted = ("int8 clipped", "int4 clipped", "50 % magnitude", "75 % magnitude", "2:4 magnitude")
    ways = [way for way in WAYS if way.name in wanted]
    found = {way.name: _db(one) for way, one in spend(layer, ways)}
    for name, expected in zip(wanted, (40.57, 19.26, 11.47, 5.58, 8.78), strict=True):
        weights, outputs, bound = found[name]
        # Rows of so few do not reach as far as int8 would best be clipped.
        assert expected - 0.3 <= weights <= expected + (2 if name == "int8 clipped" else 0.3)
        # Of independent inputs, outputs are as good as weights, and magnitude is the best there is.
        assert outputs == pytest.approx(weights)
        assert bound == pytest.approx(weights, abs=0.01) or name == "2:4 magnitude"


def test_scaling_a_weight_changes_nothing() -> None:
    weight = np.random.default_rng(1).normal(size=(8, 32))
    once = _layer(weight)
    for scale in (0.25, 64.0):
        scaled = replace(once, weight=weight * scale)
        for (way, one), (_, other) in zip(spend(once), spend(scaled), strict=True):
            assert other.output_error / other.output == pytest.approx(one.output_error / one.output, rel=1e-3), way


def test_heavy_tails_with_few_bits_are_better_pruned() -> None:
    """Student's t of three degrees of freedom, against normal weights: quantization wins there at every size."""
    random = np.random.default_rng(0)
    eye = np.eye(512)

    def apart(weight: np.ndarray) -> float:
        ways = [way for way in WAYS if way.name in ("int4 clipped", "75 % magnitude")]
        found = {way.name: _db(one)[1] for way, one in spend(Layer(weight, eye, eye, 512, False), ways)}
        return found["int4 clipped"] - found["75 % magnitude"]

    assert apart(random.normal(size=(32, 512))) > 10
    assert apart(random.standard_t(2, size=(32, 512))) < 6


def test_ways_are_what_they_are_called_and_take_what_they_store() -> None:
    layer = _layer(np.random.default_rng(0).normal(size=(12, 256)))
    found = _found(layer)
    plain = nearest(layer.weight, scales_by_range(layer.weight, INT8).astype(np.float64), INT8)
    halved = np.where(keep_share(np.abs(layer.weight), 0.5, "row"), layer.weight, 0)
    for name, made in (("int8 nearest", plain), ("50 % magnitude", halved)):
        weights, outputs, _ = _db(found[name])
        assert weights == pytest.approx(sqnr(layer.weight, made), abs=1e-4)
        assert outputs == pytest.approx(sqnr(layer.weight, made, layer.held_out), abs=1e-4)
    stored = [found[name].stored for name in ("2:4 magnitude", "int4 nearest", "nvfp4 nearest")]
    assert stored == [9, 4.125, 4.5]
    assert found["2:4 + int8"].stored == pytest.approx(5 + 16 / 256)


def test_columns_that_are_no_multiple_of_four_have_no_pattern() -> None:
    assert not any(name.startswith("2:4") for name in _found(_layer(np.random.default_rng(1).normal(size=(9, 7)))))


def test_zeros_that_are_there_stay() -> None:
    weight = np.random.default_rng(2).normal(size=(8, 32))
    (found,) = (way.make(_layer(weight)) for way in WAYS if way.name == "2:4 + int8")
    grouped = found.weight.reshape(8, 8, 4)
    assert (np.count_nonzero(grouped, axis=-1) <= 2).all()


def test_a_tie_is_half_a_decibel() -> None:
    assert verdict_of(20.0, 19.6) == "tie" and verdict_of(20.0, 19.4) == "quantize" and verdict_of(5.0, 6.0) == "prune"
    assert verdict_of(np.inf, np.inf) == "tie" and verdict_of(np.inf, 3.0) == "quantize"
