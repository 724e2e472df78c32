"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quality import fashion, lite, minilm, smollm2, terrain
from quality.task import Task

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "resnet": fashion.RESNET,
        "vgg": fashion.VGG,
        "efficientnet": lite.TASK,
        "minilm": minilm.TASK,
        "smollm2": smollm2.TASK,
        "terrain": terrain.TASK,
        "experts": fashion.EXPERTS,
    }
)
