"""Tables and figures as text that reads the same on a terminal, in a file and in a log."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDTH = 120
_MOST_ROWS = 40


class Shown(ABC):
    """Something that the user gets to see: as text by `str` and on a terminal, as JSON by `to_json`."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""

    @abstractmethod
    def blocks(self) -> Iterable[RenderableType]:
        """Headings, tables and remarks, from top to bottom."""

    def __str__(self) -> str:
        stream = io.StringIO()
        print_blocks(self.blocks(), stream)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


class Plain(Shown):
    """Text that is shown as it is, not wrapped or coloured, and what JSON says instead of it."""

    def __init__(self, text: str, document: Mapping[str, Any]) -> None:
        self.text = text
        self.document = dict(document)

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return self.document

    def blocks(self) -> Iterable[RenderableType]:
        """The text in one piece."""
        from rich.text import Text

        yield Text(self.text, no_wrap=True, overflow="ignore")

    def __str__(self) -> str:
        return self.text


def console(stream: TextIO, *, terminal: bool = False) -> Console:
    """A rich console that takes names as they are: no markup, no emoji, nothing highlighted."""
    from rich.console import Console

    width = None if terminal else _WIDTH
    return Console(
        file=stream, width=width, markup=False, emoji=False, highlight=False, force_terminal=None if terminal else False
    )


def print_blocks(blocks: Iterable[RenderableType], stream: TextIO, *, terminal: bool = False) -> None:
    """Writes blocks to a stream; `terminal` uses its width and colours."""
    shown = console(stream, terminal=terminal)
    for block in blocks:
        shown.print(block)


def heading(text: str, *, first: bool = False) -> RenderableType:
    """A line that stands out on a terminal, apart from what is above it unless it comes first."""
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style="bold"), (0 if first else 1, 0, 0, 0))


def table(rows: Sequence[Mapping[str, object]], *, gap: bool = False, most: int = _MOST_ROWS) -> RenderableType:
    """A table whose columns are the keys of the rows, in the order in which they first appear.

    Numbers stand to the right. Rows after the first `most` are counted, not shown. `gap` leaves a line above it.
    """
    from rich import box
    from rich.padding import Padding
    from rich.table import Table

    columns = list({column: None for row in rows for column in row})
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        made.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows[:most]:
        made.add_row(*(cell(row.get(column)) for column in columns))
    if len(rows) > most:
        made.caption = f"and {len(rows) - most} more"
        made.caption_justify = "left"
    return Padding(made, (int(gap), 0, 0, 0), expand=False)


def pairs(entries: Mapping[str, object]) -> RenderableType:
    """Names on the left, what they stand for on the right."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column()
    made.add_column(overflow="fold")
    for name, value in entries.items():
        made.add_row(name, cell(value))
    return made


def notes(texts: Iterable[str]) -> Iterable[RenderableType]:
    """Remarks, one a paragraph."""
    from rich.padding import Padding

    for text in texts:
        yield Padding(f"- {text}", (0, 0, 0, 2))


def cell(value: object) -> str:
    """One value as a table shows it: four significant digits, thousands apart, a dash for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value)
    return str(value)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.2e}"


def amount(value: float, unit: str = "") -> str:
    """A large number in thousands: 1234567 becomes "1.23 M", with a unit "1.23 MB"."""
    for step, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{float(f'{value / step:.3g}'):g} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def change(before: float, after: float) -> str:
    """How much smaller `after` is: "-37.5 %"."""
    return "-" if not before else f"{(after - before) / before:+.1%}".replace("%", " %")


def finite(value: Any) -> Any:
    """The same document with None for NaN and infinities: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
