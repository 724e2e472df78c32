"""How far a build is, and how it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from secateur.backends.tensorrt.shim import Trt


@dataclass(frozen=True)
class Progress:
    """One completed step. `fraction` is an estimate of the whole build in [0, 1] that never falls."""

    phase: str
    step: int
    steps: int
    fraction: float


ProgressCallback = Callable[[Progress], bool | None]
"""Called from the building thread, one call at a time. False stops the build, and so does an exception; the steps are
TensorRT's own, and the compilation of all kernels is one of them."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Monitor:
    """Passes TensorRT's progress on to the callback and stops the build when that, or `cancel`, asks for it."""

    def __init__(self, callback: ProgressCallback | None = None) -> None:
        self.error: BaseException | None = None
        self._callback = callback
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._fraction = 0.0

    @property
    def cancelled(self) -> bool:
        """Whether the build was asked to stop; its result, if there is one, is not wanted."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stops the build at its next step. May be called from any thread."""
        self._cancelled.set()

    def attach(self, trt: Trt, config: Any) -> None:
        """Makes the build with this configuration report here."""
        if trt.reports_progress:
            config.progress_monitor = trt.implement(
                "IProgressMonitor",
                phase_start=self._phase_start,
                step_complete=self._step_complete,
                phase_finish=self._phase_finish,
            )

    def _phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = _Phase(parent, max(steps, 1))

    def _phase_finish(self, phase: str) -> None:
        with self._lock:
            self._phases.pop(phase, None)

    def _step_complete(self, phase: str, step: int) -> bool:
        with self._lock:
            entry = self._phases.setdefault(phase, _Phase(None, step + 1))
            entry.done = min(step + 1, entry.steps)
            self._fraction = max(self._fraction, self._estimate(entry))
            if self._callback is not None and not self.cancelled:
                with _Kept(self):
                    if self._callback(Progress(phase, step, entry.steps, self._fraction)) is False:
                        self.cancel()
        return not self.cancelled

    def _estimate(self, entry: _Phase) -> float:
        """Steps of an inner phase share one step of the phase around it."""
        fraction = entry.done / entry.steps
        while entry.parent in self._phases:
            entry = self._phases[entry.parent]
            fraction = min((entry.done + fraction) / entry.steps, 1.0)
        return fraction


class _Kept:
    """Keeps what the callback raises: it must not travel through TensorRT, which would drop it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is not None:
            self._monitor.error = error
            self._monitor.cancel()
        return True
