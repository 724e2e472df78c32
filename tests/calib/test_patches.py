"""Patches: a convolution is patches times weights, for every geometry that ONNX knows."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.calib.gram import Gram
from secateur.calib.patches import (
    ConvGeometry,
    iterate_patches,
    output_rows,
    patches,
    sample_positions,
    update_conv_grams,
)

Array = np.ndarray[Any, Any]


def by_patches(x: Array, weight: Array, geometry: ConvGeometry) -> Array:
    groups = np.split(weight.reshape(len(weight), -1), geometry.group)
    rows = np.concatenate([part @ w.T for part, w in zip(patches(x, geometry), groups, strict=True)], axis=1)
    shape = geometry.output_shape(x.shape[2:])
    return np.moveaxis(rows.reshape(len(x), *shape, len(weight)), -1, 1)


def naive(x: Array, weight: Array, geometry: ConvGeometry) -> Array:
    """The definition, index by index; pads as given."""
    shape, rank = geometry.output_shape(x.shape[2:]), len(geometry.kernel)
    out = np.zeros((len(x), len(weight), *shape))
    inputs, outputs = weight.shape[1], len(weight) // geometry.group
    for sample, n, position in product(range(len(x)), range(len(weight)), product(*map(range, shape))):
        for c, tap in product(range(inputs), product(*map(range, geometry.kernel))):
            steps = zip(position, geometry.strides, tap, geometry.dilations, geometry.pads[:rank], strict=True)
            at = [place * stride + index * dilation - pad for place, stride, index, dilation, pad in steps]
            if all(0 <= at[a] < x.shape[2 + a] for a in range(rank)):
                out[sample, n, *position] += x[sample, n // outputs * inputs + c, *at] * weight[n, c, *tap]
    return out


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Array, Array, ConvGeometry]:
    rank, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    geometry = ConvGeometry(each(1, 3), each(1, 3), each(1, 2), each(0, 2, 2 * rank), group)
    spatial = tuple(max(1, extent + draw(st.integers(-1, 2))) for extent in geometry.extents)
    if min(geometry.output_shape(spatial)) < 1:
        spatial = geometry.extents
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.normal(size=(draw(st.integers(1, 2)), group * draw(st.integers(1, 2)), *spatial))
    weight = random.normal(size=(group * draw(st.integers(1, 2)), x.shape[1] // group, *geometry.kernel))
    return x, weight, geometry


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_patches_times_weights_are_the_convolution(case: tuple[Array, Array, ConvGeometry]) -> None:
    np.testing.assert_allclose(by_patches(*case), naive(*case), atol=1e-12)


@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
def test_attributes_mean_what_they_mean_to_onnxruntime(auto_pad: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    cases: list[dict[str, Any]] = [
        {},
        {"strides": [2, 3]},
        {"strides": [1, 4]},
        {"strides": [1, 2], **({} if auto_pad.startswith("SAME") else {"dilations": [2, 1]})},  # which it does not take
        {"group": 2, "strides": [3, 2], **({"pads": [0, 2, 1, 0]} if auto_pad == "NOTSET" else {})},
    ]
    for attributes in cases:
        x = random.normal(size=(2, 4, 8, 7)).astype(np.float32)
        weight = random.normal(size=(6, 4 // attributes.get("group", 1), 3, 2)).astype(np.float32)
        node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=auto_pad, **attributes)
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", x.shape), ("w", weight.shape), ("y", None))
        ]
        graph = helper.make_graph([node], "conv", values[:2], values[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x": x, "w": weight})
        geometry = ConvGeometry.of(weight.shape, {"auto_pad": auto_pad, **attributes})
        assert geometry.output_shape(x.shape[2:]) == expected.shape[2:]
        np.testing.assert_allclose(by_patches(x, weight, geometry), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(convolutions(), st.integers(1, 4), st.integers(1, 5))
def test_chunks_and_positions_are_rows_of_the_whole(
    case: tuple[Array, Array, ConvGeometry], per_sample: int, rows: int
) -> None:
    x, _, geometry = case
    whole = patches(x, geometry)
    shape = geometry.output_shape(x.shape[2:])
    total = int(np.prod(shape))
    chunks = list(iterate_patches(x, geometry, chunk_bytes=rows * whole.shape[2] * x.itemsize * geometry.group))
    assert all(chunk.shape[1] <= rows for _, chunk in chunks)
    assert np.array_equal(np.concatenate([chunk for _, chunk in chunks], axis=1), whole)
    positions = sample_positions(len(x), shape, per_sample, seed=0)
    flat = (np.arange(len(x))[:, None] * total + positions).ravel()
    assert np.array_equal(patches(x, geometry, positions), whole[:, flat])


def test_positions_are_seeded_distinct_and_rising() -> None:
    positions = sample_positions(5, (7, 9), 10, seed=(3, 4))
    assert positions.shape == (5, 10)
    assert np.all(np.diff(positions, axis=1) > 0) and positions.min() >= 0 and positions.max() < 63
    assert np.array_equal(positions, sample_positions(5, (7, 9), 10, seed=(3, 4)))
    assert not np.array_equal(positions, sample_positions(5, (7, 9), 10, seed=(3, 5)))
    assert np.array_equal(sample_positions(2, (2, 2), 9, seed=0), [[0, 1, 2, 3]] * 2)


@pytest.mark.parametrize("sampled", [False, True])
def test_conv_grams_pair_inputs_with_targets(sampled: bool) -> None:
    """Least squares on the Grams finds the weights, which it cannot where rows and targets are out of step."""
    random = np.random.default_rng(1)
    x, weight = random.normal(size=(6, 4, 5, 6)), random.normal(size=(8, 2, 3, 3))
    geometry = ConvGeometry((3, 3), (1, 2), (1, 1), (1, 0, 0, 1), 2)
    y = by_patches(x, weight, geometry)
    positions = sample_positions(len(x), y.shape[2:], 7, seed=0) if sampled else None
    grams = [Gram(18, 4) for _ in range(2)]
    for part in (slice(0, 4), slice(4, 6)):
        update_conv_grams(grams, x[part], geometry, y[part], None if positions is None else positions[part], 0.5)
    for gram, expected in zip(grams, np.split(weight.reshape(8, -1), 2), strict=True):
        assert gram.rows == len(output_rows(y, positions)) == (42 if sampled else y[:, 0].size)
        np.testing.assert_allclose(np.linalg.solve(gram.xx, gram.xy).T, expected, atol=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    geometry = ConvGeometry((3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 2)
    for shape, message in (((1, 2, 3), "rank 4"), ((1, 3, 4, 4), "divisible by 2"), ((1, 2, 2, 5), "does not fit")):
        with pytest.raises(ValueError, match=message):
            patches(np.zeros(shape), geometry)
    with pytest.raises(ValueError, match="positions are for 2"):
        patches(np.zeros((1, 2, 4, 4)), geometry, np.zeros((2, 1), np.int64))
    with pytest.raises(ValueError, match="1 Grams for 2 groups"):
        update_conv_grams([Gram(9)], np.zeros((1, 2, 4, 4)), geometry)
    cases: dict[str, dict[str, Any]] = {
        "rank 2": {"strides": (1,)},
        "negative": {"pads": (-1, 0, 0, 0)},
        "auto_pad 'SAME'": {"auto_pad": "SAME"},
    }
    for message, attributes in cases.items():
        with pytest.raises(ValueError, match=message):
            ConvGeometry.of((1, 1, 3, 3), attributes)
