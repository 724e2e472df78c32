"""How a command ends when it does not end well: one line that says what, one that says what to do, and an exit code."""

from __future__ import annotations

import json as jsons
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

USAGE = 2
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM arrived. Raised where the program is, so that every `finally` runs and no half-written file stays."""


class Misuse(Exception):
    """Options of a command that do not go together."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def guarded(work: Callable[[], int], *, json: bool, debug: bool) -> int:
    """Runs `work` and returns its exit code, or that of its failure, which is told on standard error (or as JSON)."""
    try:
        return work()
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, and nobody to say it to.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt, Terminated) as error:  # noqa: BLE001  the last place that can give an exit code
        if debug:
            traceback.print_exception(error)
        code, message, hint = _verdict(error, debug)
        tell(message, hint, json=json)
        return code


def tell(message: str, hint: str | None, *, json: bool) -> None:
    """Says what went wrong: for people on standard error, for programs as `{"error", "hint"}` on standard output."""
    if json:
        sys.stdout.write(jsons.dumps({"error": message, "hint": hint}, indent=1) + "\n")
        sys.stdout.flush()
        return
    sys.stderr.write(f"error: {message}\n" + (f"hint: {hint}\n" if hint else ""))


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM an exception while the block runs, as SIGINT is one already; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _verdict(error: BaseException, debug: bool) -> tuple[int, str, str | None]:
    """Exit code, message and hint of a failure."""
    from secateur.ir.errors import SecateurError

    if isinstance(error, Misuse):
        return USAGE, str(error), error.hint
    for behind in _chain(error):
        if isinstance(behind, KeyboardInterrupt):
            return INTERRUPTED, "interrupted; nothing was written", None
        if isinstance(behind, Terminated):
            return TERMINATED, "terminated; nothing was written", None
    if isinstance(error, SecateurError):
        # Where it happened, if somebody on the way noted it.
        places = [note for note in getattr(error, "__notes__", ()) if note not in error.message]
        return error.exit_code, error.message + (f" ({'; '.join(places)})" if places else ""), error.hint
    return INTERNAL, *_defect(error, debug)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what is behind it: a compiled module that is interrupted while it loads says ImportError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _defect(error: BaseException, debug: bool) -> tuple[str, str | None]:
    """What can be said of a failure that is not the user's."""
    from secateur.ir.errors import PassError

    first = str(error).strip().partition("\n")[0]
    message = f"internal error: {type(error).__name__}{': ' if first else ''}{first}"
    hints = [] if debug else ["run with --debug to see where"]
    if isinstance(error, PassError) and error.reproducer:
        hints.append(f"report it with the folder {error.reproducer}, which reproduces it")
    return message, "; ".join(hints) or None
