"""The error of a part with weights of somebody else's making, and its gradient at them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.convolutional import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir.errors import DataError
from secateur.ir.runner import Example

torch = pytest.importorskip("torch")


def test_a_slope_is_that_of_the_error_at_other_weights() -> None:
    from secateur.backends.torch.tuning import TorchTuner

    net, random = Net(3, 6).conv(4).op("Tanh").conv(2).done(), np.random.default_rng(0)
    x, output = random.normal(size=(5, 3, 6, 6)).astype(np.float32), net.outputs[0].name
    with OnnxRuntimeRunner(net) as runner:
        given = runner.run({"x": x})[output]
    per = np.array([1.0, 4.0], np.float32).reshape(1, 2, 1, 1)
    example = Example({"x": x}, given + random.normal(size=given.shape).astype(np.float32), 0.5, per)
    weights = {name: random.normal(size=net[name].const.shape).astype(np.float32) for name in ("w", "w_2")}  # type: ignore[union-attr]
    with TorchTuner(net, inputs=["x"], output=output, weights=dict.fromkeys(weights)) as tuner:
        slope = tuner.slope(weights, example)
        assert tuner.slope(weights, example).error == slope.error
        for name in weights:
            direction = random.normal(size=weights[name].shape).astype(np.float32)
            ends = [
                tuner.slope({**weights, name: weights[name] + sign * 1e-2 * direction}, example).error
                for sign in (np.float32(1), np.float32(-1))
            ]
            found = float(np.sum(slope.gradients[name] * direction))
            np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-2, rtol=2e-2)
        with pytest.raises(DataError, match="no weight"):
            tuner.slope({"v": weights["w"]}, example)
    with OnnxRuntimeRunner(net, inputs=["x", *weights], outputs=[output]) as runner:
        missed = (runner.run({"x": x, **weights})[output] - example.target) / per
    np.testing.assert_allclose(slope.error, 0.5 * np.square(missed).sum(), rtol=1e-4)


def test_weights_that_do_nothing_have_no_slope() -> None:
    """What is behind a part does not change what it gives."""
    from secateur.backends.torch.tuning import TorchTuner

    net = Net(3, 4).conv(4).done()
    x = np.zeros((2, 3, 4, 4), np.float32)
    with TorchTuner(net, inputs=["x"], output=net.outputs[0].name, weights={"w": None}) as tuner:
        with OnnxRuntimeRunner(net) as runner:
            example = Example({"x": x}, next(iter(runner.run({"x": x}).values())))
        slope = tuner.slope({"w": np.ones((4, 3, 3, 3), np.float32)}, example)
    assert slope.error < 1e-12
    assert not slope.gradients["w"].any()
