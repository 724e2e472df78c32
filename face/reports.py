"""What a compression did, as text, JSON and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur import plots
from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically
from secateur.passes.report import Entry, Report
from secateur.text import Shown, amount, change, finite, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType

PICTURE = "report.png"


@dataclass(frozen=True)
class CompressionReport(Shown):
    """What each pass did, and what became of the model's size and cost.

    `macs` are multiply-accumulates for one sample, before and after; `recipe` and `data` are names, where there are.
    """

    run: Report
    pipeline: str
    recipe: str = ""
    seed: int = 0
    data: str | None = None
    macs: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, with the whole table of every pass."""
        document = self.run.to_json()
        if self.macs is not None:
            document["totals"]["macs"] = {"before": self.macs[0], "after": self.macs[1]}
        head = {"model": self.run.model, "pipeline": self.pipeline, "recipe": self.recipe or None}
        return {**head, "seed": self.seed, "data": self.data, **document, "remarks": list(self.remarks)}

    def blocks(self) -> Iterable[RenderableType]:
        """Sizes, then a line for each pass, then the table and the remarks of each."""
        yield heading(f"{self.run.model}: {self.pipeline}", first=True)
        yield pairs({"recipe": self.recipe, "data": self.data, "seed": self.seed})
        yield from notes(self.remarks)
        sizes = list(self.sizes())
        if sizes:
            yield table([{"": name, "before": b, "after": a, "change": c} for name, b, a, c in sizes], gap=True)
        yield table([_summary(entry) for entry in self.run.entries], gap=True)
        for entry in self.run.entries:
            if entry.rows or entry.notes:
                yield heading(entry.text)
            if entry.rows:
                yield table(entry.rows)
            yield from notes(entry.notes)

    def sizes(self) -> Iterator[tuple[str, str, str, str]]:
        """(what, before, after, change) for ops, parameters, bytes and MACs."""
        before, after = self.run.before, self.run.after
        if before is not None and after is not None:
            yield "ops", f"{before.ops:,}", f"{after.ops:,}", change(before.ops, after.ops)
            yield _line("parameters", before.parameters, after.parameters)
            yield _line("size", before.bytes, after.bytes, "B")
        if self.macs is not None:
            yield _line("MACs a sample", *self.macs)

    def files(self) -> dict[str, bytes]:
        """The content of each of `report_names`."""
        found = {
            "report.json": json.dumps(finite(self.to_json()), indent=1).encode() + b"\n",
            "report.txt": f"{self}\n".encode(errors="backslashreplace"),
        }
        return {**found, PICTURE: plots.picture(self)} if plots.is_available() else found

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Writes `files` into a folder, which is made if need be; all of them or none. Returns what was written.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        files = self.files()
        paths = tuple(make_folder(folder) / name for name in files)
        with write_atomically(*paths) as temporaries:
            for temporary, content in zip(temporaries, files.values(), strict=True):
                temporary.write_bytes(content)
        return paths


def report_names() -> tuple[str, ...]:
    """The files of a report; without matplotlib there is no picture among them."""
    return ("report.json", "report.txt", *((PICTURE,) if plots.is_available() else ()))


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}", hint="choose another folder") from error
    return path


def _line(name: str, before: int, after: int, unit: str = "") -> tuple[str, str, str, str]:
    return name, amount(before, unit), amount(after, unit), change(before, after)


def _summary(entry: Entry) -> dict[str, object]:
    return {"pass": entry.text, "effect": entry.effect, "rewrites": entry.rewrites, "seconds": entry.seconds}
