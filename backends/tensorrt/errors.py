"""What can go wrong on the way to an engine, one class for each thing that a caller may want to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.ir.errors import BackendError, SecateurError

if TYPE_CHECKING:
    from secateur.backends.tensorrt.messages import Message, Refusal
    from secateur.backends.tensorrt.quantized import NodePrecision
    from secateur.backends.tensorrt.sparsity import WeightVerdict


UNAVAILABLE = 3
"""Exit code: no TensorRT can be used here."""
REFUSED = 4
"""Exit code: TensorRT refuses the model, its sizes, or a target."""
CHECK_FAILED = 5
"""Exit code: something was built, and is not as it was required to be."""


class TensorRTError(BackendError):
    """A failure of this backend; `log` holds every row that TensorRT had written until then."""

    def __init__(self, message: str, *, hint: str | None = None, log: Sequence[Message] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log = tuple(log)


class BackendUnavailable(TensorRTError):
    """Neither package can be used here: not installed, a library is missing, too old, or it finds no driver."""

    exit_code = UNAVAILABLE


class TargetError(TensorRTError):
    """A compute capability is unknown, named twice, or cannot compute a data type that the model uses."""

    exit_code = REFUSED


class ProfileError(TensorRTError):
    """The input sizes asked for do not fit the model. `input` is the name at fault (None: no one input)."""

    exit_code = REFUSED

    def __init__(self, message: str, *, input: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.input = input


class ShapeError(ProfileError):
    """What was written is no range of sizes, whatever the model."""

    exit_code = SecateurError.exit_code


class UnsupportedModel(TensorRTError):
    """The model is ONNX, but TensorRT takes some of its operators not at all; `refusals` names each."""

    exit_code = REFUSED

    def __init__(
        self, message: str, refusals: Sequence[Refusal], *, hint: str | None = None, log: Sequence[Message] = ()
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.refusals = tuple(refusals)


class BuildFailed(TensorRTError):
    """The builder took the model and then gave up; the message carries its reasons."""

    exit_code = REFUSED


class BuildCancelled(TensorRTError):
    """The progress callback, or an interrupt, stopped the build. No file was written."""


class PluginError(TensorRTError):
    """A plugin library is not there, cannot be loaded, or holds no plugins."""

    exit_code = REFUSED


class PrecisionNotHonoured(TensorRTError):
    """What the model quantizes would run in another type; `nodes` are those that do. No file was written."""

    exit_code = CHECK_FAILED

    def __init__(
        self, message: str, nodes: Sequence[NodePrecision], *, hint: str | None = None, log: Sequence[Message] = ()
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.nodes = tuple(nodes)


class SparsityNotHonoured(TensorRTError):
    """Weights are not sparse as promised, or no sparse kernel takes them; `weights` are those. No file was written."""

    exit_code = CHECK_FAILED

    def __init__(
        self, message: str, weights: Sequence[WeightVerdict], *, hint: str | None = None, log: Sequence[Message] = ()
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.weights = tuple(weights)
