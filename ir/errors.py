"""Two families of failure: the user's model or data (`SecateurError`); a pass that broke its contract (`PassError`)."""

from __future__ import annotations


class SecateurError(Exception):
    """Something the user gave cannot be used: says what, where, and what to do about it.

    `hint` is the remedy, one sentence; the command line prints it on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ModelError(SecateurError):
    """A file is no model that can be read: damaged, cut short, missing its external data, not ONNX at all."""


class GraphError(SecateurError):
    """A graph is not well formed, or an operation on it is not legal; names the op and the value."""


class TextError(SecateurError):
    """A text form (graph, pipeline, recipe) does not parse; says line and column."""


class DataError(SecateurError):
    """Calibration or evaluation data does not fit the model: names, shapes, types, NaN, or nothing there."""


class RefusedError(SecateurError):
    """A pass was asked for something it cannot do correctly, and left the graph as it was."""


class OutputError(SecateurError):
    """An output cannot be written: no such folder, not writable, disk full. Nothing half-written stays."""


class BackendError(SecateurError):
    """A runtime or builder is missing, or refuses a model that is well formed."""


class PassError(Exception):
    """A pass broke its own contract: our defect, not the user's. Carries where a reproducer was written."""

    def __init__(self, message: str, *, reproducer: str | None = None) -> None:
        super().__init__(f"{message}\n  reproducer: {reproducer}" if reproducer else message)
        self.reproducer = reproducer
