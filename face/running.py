"""With what models are run and timed: a runner, and a stopwatch, by its name."""

from __future__ import annotations

from functools import partial

from secateur.backends import latency
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir.errors import BackendError
from secateur.ir.runner import DifferentiatorFactory, RunnerFactory, Stopwatch, TunerFactory

RUNNERS = "onnxruntime, torch, torch:cuda"
TIMERS = "onnxruntime, tensorrt"


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


def stopwatch_of(name: str) -> Stopwatch:
    """The stopwatch of a name: `onnxruntime`, on the CPU, or `tensorrt`, on a GPU by engines; loads neither yet.

    Raises:
        BackendError: there is no such timer.
    """
    if name == "onnxruntime":
        return latency.stopwatch
    if name == "tensorrt":
        from secateur.backends.tensorrt.stopwatch import EngineStopwatch

        return EngineStopwatch()
    raise BackendError(f"there is no timer {name!r}", hint=f"say one of {TIMERS}")


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
