"""What can be asked of a build."""

from __future__ import annotations

from dataclasses import dataclass, field

from secateur.backends.tensorrt.errors import BackendUnavailable, TargetError
from secateur.backends.tensorrt.profiles import Profile
from secateur.backends.tensorrt.progress import ProgressCallback
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


def check_against(trt: Trt, options: BuildOptions) -> None:
    """Passes when the loaded package can do what the options ask.

    Raises:
        TargetError: a compute capability that this package does not know, or any at all where it cannot be told.
        BackendUnavailable: sparse weights are asked of a package without them.
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
    if options.sparse_weights and not trt.sparse_weights:
        raise BackendUnavailable(f"{trt.flavor} {trt.version} has no flag for sparse weights")
