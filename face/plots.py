"""One picture of a compression: what is left of the model, and what each pass's table says of every layer."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from secateur.passes.report import Entry

if TYPE_CHECKING:
    from secateur.reports import CompressionReport

_MOST_BARS = 60


def is_available() -> bool:
    """True where matplotlib can be loaded."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def picture(report: CompressionReport) -> bytes:
    """A PNG: the shares of parameters, bytes and MACs that are left; a panel for each pass that measured something.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(entry, columns) for entry in report.run.entries if (columns := _columns(entry))]
    # Figure and canvas without pyplot: no global state, no display, nothing to close.
    figure = Figure(figsize=(10, 2.6 * (1 + len(panels))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(panels), squeeze=False)[:, 0]
    _draw_sizes(axes[0], report)
    for axis, (entry, columns) in zip(axes[1:], panels, strict=True):
        _draw_rows(axis, entry, columns)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()


def _draw_sizes(axis: Any, report: CompressionReport) -> None:
    before, after = report.run.before, report.run.after
    shares: dict[str, float] = {}
    if before is not None and after is not None:
        for name in ("parameters", "bytes"):
            shares[name] = getattr(after, name) / max(getattr(before, name), 1)
    if report.macs is not None:
        shares["MACs"] = report.macs[1] / max(report.macs[0], 1)
    bars = axis.barh(list(shares), [100 * share for share in shares.values()], color="#4c72b0")
    axis.bar_label(bars, fmt="%.0f %%", padding=3)
    axis.axvline(100, color="grey", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlim(0, max(115.0, 115 * max(shares.values(), default=1)))
    axis.set_xlabel("% of the original model")
    axis.set_title(_plain(report.run.model), parse_math=False)


def _draw_rows(axis: Any, entry: Entry, columns: list[str]) -> None:
    """Bars side by side for each layer; on a logarithmic scale where they span more than two orders of magnitude."""
    rows = [row for row in entry.rows if any(_is_measured(row.get(column)) for column in columns)][:_MOST_BARS]
    labels = [_plain(str(next(iter(row.values())))) for row in rows]
    width = 0.8 / len(columns)
    heights: list[float] = []
    for index, column in enumerate(columns):
        values = [_height(row.get(column)) for row in rows]
        places = [place + (index - (len(columns) - 1) / 2) * width for place in range(len(rows))]
        axis.bar(places, values, width, label=column.replace("_", " "))
        heights += [value for value in values if value > 0]
    if heights and max(heights) > 100 * min(heights):
        axis.set_yscale("log")
    axis.set_xticks(range(len(rows)), labels, rotation=90, fontsize=6, parse_math=False)
    axis.set_title(_plain(entry.text), fontsize=9, parse_math=False)
    axis.legend(fontsize=7)


def _columns(entry: Entry) -> list[str]:
    """The columns of measurements (errors, shares, decibels): fractions, not counts; the first names the layer."""
    columns = list({column: None for row in entry.rows for column in list(row)[1:]})
    return [column for column in columns if any(_is_measured(row.get(column)) for row in entry.rows)]


def _is_measured(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _height(value: object) -> float:
    return value if isinstance(value, float) and math.isfinite(value) else 0.0


def _plain(name: str) -> str:
    """A name in ASCII: fonts lack glyphs, and names need not even be text."""
    return name.encode("ascii", "replace").decode()
