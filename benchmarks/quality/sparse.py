"""What the table of sparsity has: models with the data of the structured one, patterns, and pipelines by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from quality import fashion, lite, minilm, smollm2, terrain
from quality.task import Metric, Task

WINDOWS, LENGTH = 128, 256
"""Of SmolLM2's calibration, for whatever is calibrated."""
PATTERNS: Mapping[str, str] = MappingProxyType({"2:4": "2:4", "4:8": "4:8", "50 %": "50%"})
DEFAULT, DENSE = "default", "dense"


@dataclass(frozen=True)
class Method:
    """A row: passes with PATTERN where the pattern goes, and whether it is for N:M alone."""

    passes: str
    neighbours: bool = False

    def pipeline(self, pattern: str) -> str:
        """The text of the passes."""
        return self.passes.replace("PATTERN", f"pattern={PATTERNS[pattern]}")


def _sparsify(options: str = "") -> Method:
    return Method(f"sparsify{{PATTERN{', ' if options else ''}{options}}}")


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        DEFAULT: _sparsify(),
        "default, data as it is": _sparsify("augment=0"),
        "default, augment": _sparsify("augment=4"),
        "default, refit-blocks": Method("sparsify{PATTERN},refit-blocks{steps=50}"),
        "default, refit-blocks, refit whole": Method(
            "sparsify{PATTERN},refit-blocks{span=2, steps=40, rate=0.005},refit-blocks{span=0, steps=40, rate=0.003}"
        ),
        "default, augment, refit-blocks": Method("sparsify{PATTERN, augment=4},refit-blocks{steps=50, augment=4}"),
        "permute, default": Method("permute{PATTERN},sparsify{PATTERN}", neighbours=True),
        "permute, default, refit-blocks": Method(
            "permute{PATTERN},sparsify{PATTERN},refit-blocks{steps=50}", neighbours=True
        ),
        "armor": Method("armor{PATTERN}", neighbours=True),
        "ADMM, least squares": _sparsify("criterion=admm, repair=least-squares"),
        "SparseGPT then ADMM, least squares": _sparsify("criterion=sparsegpt, refine=admm, repair=least-squares"),
        "SparseGPT, least squares": _sparsify("criterion=sparsegpt, repair=least-squares"),
        "SparseGPT": _sparsify("criterion=sparsegpt, repair=sweep"),
        "SparseGPT, own targets": _sparsify("criterion=sparsegpt, repair=sweep, targets=own"),
        "Wanda, least squares": _sparsify("criterion=wanda, repair=least-squares"),
        "Wanda and swaps, least squares": _sparsify("criterion=wanda, refine=swap, repair=least-squares"),
        "Wanda and swaps": _sparsify("criterion=wanda, refine=swap, repair=none"),
        "Wanda": _sparsify("criterion=wanda, repair=none, scope=row"),
        "RIA": _sparsify("criterion=ria, repair=none"),
        "DSnoT": _sparsify("criterion=wanda, refine=dsnot, repair=none, scope=row"),
        "Pruner-Zero": _sparsify("criterion=pruner-zero, repair=none, scope=row"),
        "sketch, least squares": _sparsify("criterion=sketch, repair=least-squares"),
        "magnitude, least squares": _sparsify("criterion=magnitude, repair=least-squares"),
        "magnitude, scale": _sparsify("criterion=magnitude, repair=scale"),
        "magnitude": _sparsify("criterion=magnitude, repair=none"),
    }
)
REFERENCES = ("reference SparseGPT", "reference Wanda")
"""The published classes, on torch twins (`reference.py`)."""
ONNXSIM = ("onnxsim sparsegpt", "onnxsim wanda")
"""By their names in `sparse_peers.py`."""

_task = partial(replace, amounts=PATTERNS, methods=tuple(METHODS))
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "smollm2": _task(
            smollm2.TASK,
            calibrate=partial(smollm2.calibrate, WINDOWS, LENGTH, 4),
            peers=(*REFERENCES, *ONNXSIM),
        ),
        "minilm": _task(minilm.TASK, peers=(*REFERENCES, *ONNXSIM)),
        "vit": _task(
            fashion.RESNET,
            title="vision transformer / Fashion-MNIST",
            model=lambda: fashion.trained("vit"),
            metrics=(*fashion.METRICS, Metric("NLL", ".4f")),
            judge=fashion.likelihood,
            peers=ONNXSIM,
        ),
        "efficientnet": _task(lite.TASK, peers=ONNXSIM),
        "terrain": _task(terrain.TASK, peers=ONNXSIM),
        "resnet": _task(fashion.RESNET, peers=ONNXSIM),
    }
)
"""By name. Peers are calibrated on the same data."""
