"""What can be hung around passes: dumping, printing and progress know the manager, it knows none of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from secateur.ir import Graph
from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically
from secateur.passes.base import Pass
from secateur.passes.context import Progress
from secateur.passes.report import Entry


@dataclass(frozen=True)
class Step:
    """One pass in a run."""

    index: int
    """From 0."""
    total: int | None
    """How many passes there will be; None where nobody knows yet."""
    running: Pass
    graph: Graph
    """As it is now: look, don't touch."""
    entry: Entry
    """Complete after the pass."""


class Hook:
    """Looks on before and after every pass; does nothing by itself."""

    def before(self, step: Step) -> None:
        """The pass is about to run."""

    def after(self, step: Step) -> None:
        """The pass has run, and all checks have passed."""


class Dump(Hook):
    """Writes the text form of the graph into a folder: `000-input.txt`, then `001-prune.txt` and so on."""

    def __init__(self, folder: str | Path) -> None:
        """Makes the folder.

        Raises:
            OutputError: it cannot be made.
        """
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make {folder}: {error.strerror}", hint="choose another dump folder") from error

    def before(self, step: Step) -> None:
        """Writes the input, once."""
        if step.index == 0:
            self._write("000-input.txt", step.graph)

    def after(self, step: Step) -> None:
        """Writes what the pass made."""
        self._write(f"{step.index + 1:03d}-{step.running.name}.txt", step.graph)

    def _write(self, name: str, graph: Graph) -> None:
        with write_atomically(self.folder / name) as (temporary,):
            temporary.write_text(f"{graph}\n", encoding="utf-8")


class Show(Hook):
    """Writes the text form to a stream after each pass that changed something."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def after(self, step: Step) -> None:
        """Writes a heading and the graph."""
        if step.entry.rewrites:
            self.stream.write(f"# after {step.entry.text}: {step.entry.rewrites} rewrites\n{step.graph}\n")


class Watch(Hook):
    """Tells a progress function which pass is running."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def before(self, step: Step) -> None:
        """Tells that the pass begins."""
        self.progress(step.entry.text, step.index, step.total or 0)

    def after(self, step: Step) -> None:
        """Tells that it is done."""
        self.progress(step.entry.text, step.index + 1, step.total or 0)
