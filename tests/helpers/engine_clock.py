"""A GPU that is none: real engines are built for it, and what they take goes by their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from secateur.backends.tensorrt.shim import Choice
from secateur.backends.tensorrt.stopwatch import Device
from secateur.ir.runner import Feeds


@dataclass
class FakeGpu:
    """`asked` counts the engines that were timed; each takes `seconds`, or a nanosecond for each of its bytes."""

    name: str = "NVIDIA L4"
    capability: str = "8.9"
    seconds: float | None = None
    asked: list[int] = field(default_factory=list)

    def __call__(self, flavor: Choice) -> Device:
        return Device(self.name, self.capability, self.time)

    def time(self, engine: Path, feeds: Feeds) -> float:
        self.asked.append(engine.stat().st_size)
        return self.asked[-1] * 1e-9 if self.seconds is None else self.seconds


Gpu = Callable[[Choice], Device]
