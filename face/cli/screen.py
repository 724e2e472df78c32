"""What goes to the user: answers on standard output; progress and remarks on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.text import Plain, Shown, console, finite, print_blocks

if TYPE_CHECKING:
    from secateur.passes.context import Progress


@dataclass(frozen=True)
class Screen:
    """Standard output carries the answer and nothing else, as text or (`json`) as one document."""

    json: bool = False

    def show(self, shown: Shown, extra: Mapping[str, Any]) -> None:
        """Prints an answer.

        Raises:
            OutputError: standard output cannot be written, because its disk is full, say.
            BrokenPipeError: nobody reads it any more.
        """
        try:
            if self.json:
                document = finite({**shown.to_json(), **extra})
                sys.stdout.write(json.dumps(document, indent=1) + "\n")
            elif sys.stdout.isatty() and not isinstance(shown, Plain):
                print_blocks(shown.blocks(), sys.stdout, terminal=True)
            else:
                sys.stdout.write(f"{shown}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            from secateur.ir.errors import OutputError

            raise OutputError(f"cannot write to standard output: {error.strerror}", hint="free some space") from error

    def note(self, text: str) -> None:
        """A remark for people; not in JSON mode."""
        if not self.json:
            sys.stderr.write(f"{text}\n")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A function that shows `(description, done, total)` while the block runs; on a terminal only.

        A total of 0 is one that nobody knows.
        """
        if not sys.stderr.isatty():
            yield lambda description, done, total: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        said = TextColumn("{task.description}", markup=False)
        columns = (said, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, console=console(sys.stderr, terminal=True), transient=True) as bars:
            known: dict[str, Any] = {}

            def tell(description: str, done: int, total: int) -> None:
                if description not in known:
                    known[description] = bars.add_task(description, total=total or None)
                bars.update(known[description], completed=done, total=total or None, visible=not 0 < total <= done)

            yield tell
