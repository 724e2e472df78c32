"""What a build came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secateur.backends.tensorrt.layers import Layer
from secateur.backends.tensorrt.profiles import Profile
from secateur.backends.tensorrt.quantized import NodePrecision
from secateur.backends.tensorrt.shim import Flavor
from secateur.backends.tensorrt.sparsity import WeightVerdict


@dataclass(frozen=True)
class BuildReport:
    """An engine that lies on disk, and all that is known of it without a GPU.

    - `bytes`, `sha256`: of the engine file. `seconds`: parsing, building and writing.
    - `targets`: compute capabilities asked for; () is the package's default range.
    - `options`, `flags`: what was asked for, and NVIDIA's names of the builder flags that it came to.
    - `layers`: its kernels, () where the builder did not say; a note tells why.
    - `precision`: what each node that the model quantizes is computed in; None: unknown.
    - `quantized_in_float`: those of them that the engine computes in float all the same; None: unknown.
    - `weights`: of each, whether it is 2:4, eligible for a sparse kernel, and what is known of the kernel.
    - `memory`: bytes by kind, as the builder states them: scratch, activation, weights, host_persistent, …
    - `sparsity_lines`: what the builder itself says of 2:4 sparsity, verbatim. That a layer may take a sparse kernel is
      not that it does, nor that it is faster.
    - `notes`: what the reader must know to read the rest rightly.
    """

    model: Path
    engine: Path
    bytes: int
    sha256: str
    seconds: float
    flavor: Flavor
    version: str
    targets: tuple[str, ...]
    profiles: tuple[Profile, ...]
    options: dict[str, Any]
    flags: tuple[str, ...]
    layers: tuple[Layer, ...]
    precision: tuple[NodePrecision, ...] | None
    quantized_in_float: tuple[str, ...] | None
    weights: tuple[WeightVerdict, ...]
    memory: dict[str, int]
    warnings: tuple[str, ...]
    sparsity_lines: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts, lists, strings and numbers; a profile is {input: {"min", "opt", "max"}}."""
        plain: dict[str, Any] = _plain(asdict(self))
        plain["profiles"] = [
            {given.pop("input"): given for given in profile["ranges"]} for profile in plain["profiles"]
        ]
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
