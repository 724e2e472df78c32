"""PyTorch modules in."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from helpers.onnxruntime_runs import session

from secateur.ir.errors import BackendError
from secateur.ir.onnx_torch import from_torch
from secateur.ir.onnx_write import to_bytes

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "onnxscript")), reason="torch is not installed"
)


def network() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Flatten()
    )


@pytest.mark.slow
def test_a_module_computes_the_same_and_stays_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    module, example = network(), torch.randn(2, 3, 8, 8)
    module[0].eval()
    graph = from_torch(
        module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["image"], opset=18
    )
    assert [inner.training for inner in module.modules()] == [True, False, True, True, True, True]
    assert capfd.readouterr() == ("", "")
    graph.verify()
    assert [value.name for value in graph.inputs] == ["image"] and graph.header.opset() == 18
    images = torch.randn(5, 3, 8, 8)
    (found,) = session(to_bytes(graph)).run(None, {"image": images.numpy()})
    expected = module.eval()(images).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_what_cannot_be_exported_is_a_backend_error() -> None:
    import torch

    class Branching(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(BackendError, match="torch cannot export Branching"):
        from_torch(Branching(), {"x": torch.ones(2)})


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"secateur\[torch\]"):
        from_torch(object(), ())  # type: ignore[arg-type]
