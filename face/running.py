"""With what models are run: a runner by its name."""

from __future__ import annotations

from functools import partial

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir.errors import BackendError
from secateur.ir.runner import DifferentiatorFactory, RunnerFactory, TunerFactory

RUNNERS = "onnxruntime, torch, torch:cuda"


def runner_of(name: str) -> RunnerFactory:
    """The runner of a name: `onnxruntime`, `torch` (on the CPU), `torch:cuda`, `torch:cuda:1`; loads nothing yet.

    Raises:
        BackendError: there is no such runner.
    """
    runtime, _, device = name.partition(":")
    if name == "onnxruntime":
        return OnnxRuntimeRunner
    if runtime == "torch":
        from secateur.backends.torch import TorchRunner  # hundreds of rules, which most callers do not need

        return partial(TorchRunner, device=device or "cpu")
    raise BackendError(f"there is no runner {name!r}", hint=f"say one of {RUNNERS}")


def differentiator_of(name: str) -> DifferentiatorFactory:
    """What gives gradients beside a runner of that name: torch, on the same device. Loads nothing yet."""
    from secateur.backends.torch.scores import TorchDifferentiator

    return partial(TorchDifferentiator, device=_gradients(name))


def tuner_of(name: str) -> TunerFactory:
    """What fits weights beside a runner of that name: torch, on the same device. Loads nothing yet."""
    from secateur.backends.torch.tuning import TorchTuner

    return partial(TorchTuner, device=_gradients(name))


def _gradients(name: str) -> str:
    """The device on which torch differentiates beside a runner of that name."""
    runtime, _, device = name.partition(":")
    return device if runtime == "torch" and device else "cpu"
