"""What lives inside `with` only: a program that is compiled on the way in, and let go on the way out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from secateur.backends.torch.program import Program


class Opened(ABC):
    """Compiles a program on `with`."""

    _program: Program | None = None

    @abstractmethod
    def _compile(self) -> Program:
        """The program."""

    def __enter__(self) -> Self:
        """Loads torch and looks the rules up.

        Raises:
            BackendError: torch is not installed, has no such device, or ops have no rule (all are named).
            GraphError: a name is unknown, or the inputs do not suffice for the outputs.
        """
        self._program = self._compile()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program = None

    def _opened(self, who: str) -> Program:
        """The program; a RuntimeError outside of `with`."""
        if self._program is None:
            raise RuntimeError(f"a {who} runs inside `with` only")
        return self._program
