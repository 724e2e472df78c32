"""What can go wrong on the way to an engine, one class for each thing that a caller may want to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.ir.errors import BackendError

if TYPE_CHECKING:
    from secateur.backends.tensorrt.messages import Message, Refusal


class TensorRTError(BackendError):
    """A failure of this backend; `log` holds every row that TensorRT had written until then."""

    def __init__(self, message: str, *, hint: str | None = None, log: Sequence[Message] = ()) -> None:
        super().__init__(message, hint=hint)
        self.log = tuple(log)


class BackendUnavailable(TensorRTError):
    """Neither package can be used here: not installed, a library is missing, too old, or it finds no driver."""


class TargetError(TensorRTError):
    """A compute capability is unknown, named twice, or cannot compute a data type that the model uses."""


class ProfileError(TensorRTError):
    """The input sizes asked for do not fit the model. `input` is the name at fault (None: no one input)."""

    def __init__(self, message: str, *, input: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.input = input


class UnsupportedModel(TensorRTError):
    """The model is ONNX, but TensorRT takes some of its operators not at all; `refusals` names each."""

    def __init__(
        self, message: str, refusals: Sequence[Refusal], *, hint: str | None = None, log: Sequence[Message] = ()
    ) -> None:
        super().__init__(message, hint=hint, log=log)
        self.refusals = tuple(refusals)


class BuildFailed(TensorRTError):
    """The builder took the model and then gave up; the message carries its reasons."""


class BuildCancelled(TensorRTError):
    """The progress callback, or an interrupt, stopped the build. No file was written."""
