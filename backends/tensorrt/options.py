"""What can be asked of a build."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from typing import Any, get_args

from secateur.backends.tensorrt.errors import BackendUnavailable, TargetError
from secateur.backends.tensorrt.profiles import Profile
from secateur.backends.tensorrt.progress import ProgressCallback
from secateur.backends.tensorrt.quantized import Precision
from secateur.backends.tensorrt.shim import Choice, Trt


@dataclass(frozen=True)
class BuildOptions:
    """Options of one build. The network is always strongly typed: an engine computes in the model's own types.

    - `compute_capabilities`: the GPUs to build for, as "8.9"; TensorRT-RTX only. With none given the engine serves the
      package's default range, and the model's data types are checked against no GPU.
    - `profiles`: sizes for inputs that are not fixed; see `Profile`.
    - `workspace_bytes`: the most scratch memory that a kernel may use; None leaves it to TensorRT.
    - `sparse_weights`: lets the builder take 2:4 sparse kernels for weights that are 2:4 already. It changes no weight.
    - `optimization_level`: 0 (fast build) to 5; None is TensorRT's own default.
    - `require_precision`: what quantized nodes must run in, or the build fails: "as-quantized", or a type by name.
    - `require_sparse`: fails unless the model holds the 2:4 weights that it promises, and none that could take a sparse
      kernel is known to take a dense one; implies `sparse_weights`. TensorRT-RTX says nothing of the kernels.
    - `refit`, `strip`: an engine whose weights can be replaced, or come later. TensorRT-RTX wants a GPU for both.
    - `version_compatible`: an engine that newer versions of the package load, too.
    - `plugins`: libraries of plugins that the model needs.
    - `timing_cache`: a file of what kernels took, read if it is there and written anew; `tensorrt` only.
    - `stream_to_file`: writes the engine as it is made, about one size of the weights less in memory at the peak.
    - `progress`: see `ProgressCallback`.

    Raises:
        TargetError: a compute capability is named twice.
        ValueError: a number is out of its range.
    """

    flavor: Choice = "auto"
    compute_capabilities: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    workspace_bytes: int | None = None
    sparse_weights: bool = False
    optimization_level: int | None = None
    require_precision: Precision | None = None
    require_sparse: bool = False
    refit: bool = False
    strip: bool = False
    version_compatible: bool = False
    plugins: tuple[str, ...] = ()
    timing_cache: str | None = None
    stream_to_file: bool = True
    progress: ProgressCallback | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in self.compute_capabilities:
            if self.compute_capabilities.count(name) > 1:
                raise TargetError(f"compute capability {name} is named twice", hint="name each target once")
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise ValueError(f"workspace_bytes must be positive, not {self.workspace_bytes}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level must be 0 to 5, not {self.optimization_level}")
        if self.require_precision not in (None, *get_args(Precision)):
            raise ValueError(
                f"require_precision must be one of {', '.join(get_args(Precision))}, not {self.require_precision!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """What was asked for as JSON's own types, without targets and profiles, and without paths' folders."""
        names = ("workspace_bytes", "optimization_level", "require_precision", "require_sparse", "refit", "strip")
        plain = {name: getattr(self, name) for name in (*names, "sparse_weights", "version_compatible")}
        return {**plain, "plugins": [os.path.basename(path) for path in self.plugins]}


def check_against(trt: Trt, options: BuildOptions) -> None:
    """Passes when the loaded package can do what the options ask.

    Raises:
        TargetError: a compute capability that this package does not know, or any at all where it cannot be told.
        BackendUnavailable: something is asked of a package that it does not have, or not on this machine.
    """
    if options.compute_capabilities and not trt.compute_capabilities:
        raise TargetError(
            f"{trt.flavor} {trt.version} builds for the GPU of this machine only, and cannot be given "
            f"{', '.join(options.compute_capabilities)}",
            hint="leave the compute capability out, or build with TensorRT-RTX",
        )
    for name in options.compute_capabilities:
        if name not in trt.compute_capabilities:
            raise TargetError(
                f"{trt.flavor} {trt.version} does not know compute capability {name!r}",
                hint=f"it builds for {', '.join(trt.compute_capabilities)}",
            )
    if (options.sparse_weights or options.require_sparse) and not trt.sparse_weights:
        raise BackendUnavailable(f"{trt.flavor} {trt.version} has no flag for sparse weights")
    if trt.flavor == "tensorrt-rtx":
        _check_rtx(trt, options)


def _check_rtx(trt: Trt, options: BuildOptions) -> None:
    if (options.refit or options.strip) and not _has_driver():
        what = "refittable" if options.refit else "stripped"
        raise BackendUnavailable(
            f"{trt.flavor} {trt.version} builds {what} engines only where there is an NVIDIA GPU; here is no driver",
            hint="build the engine whole, or on a machine with a GPU",
        )
    if (options.refit or options.strip) and len(options.compute_capabilities) > 1:
        raise TargetError(
            f"{trt.flavor} {trt.version} builds refittable and stripped engines for one compute capability, not for "
            f"{', '.join(options.compute_capabilities)}",
            hint="build one engine for each",
        )
    if options.timing_cache is not None:
        raise BackendUnavailable(
            f"{trt.flavor} {trt.version} keeps no timing cache: it chooses kernels on the device",
            hint="leave the timing cache out",
        )


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
