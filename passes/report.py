"""What a run did: one entry for each pass, with a table that the pass fills in itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from secateur.ir import Graph
from secateur.passes.parts import parts

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]


@dataclass(frozen=True)
class Size:
    """How big a graph is, bodies and functions included."""

    ops: int
    parameters: int
    """Elements in floating-point and quantized constants of rank 1 or more."""
    bytes: int
    """Of all constants, as stored."""

    @staticmethod
    def of(graph: Graph) -> Size:
        """Counts without reading a single weight (except strings)."""
        ops = parameters = total = 0
        for part in parts(graph):
            ops += len(part.ops())
            tensors = [value.const for value in part.constants() if value.const is not None]
            total += sum(tensor.nbytes for tensor in tensors)
            parameters += sum(t.size for t in tensors if t.shape and (t.dtype.is_float or t.dtype.bits <= 8))
        return Size(ops, parameters, total)


@dataclass
class Entry:
    """What one pass did."""

    text: str
    """The pass as the pipeline spells it."""
    effect: str = ""
    rewrites: int = 0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    """The pass's own table, one flat mapping a line (a layer, a rule, a weight)."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: what was left out, and why."""

    def __post_init__(self) -> None:
        self._said = set(self.notes)
        self._asked: set[str] = set()

    @property
    def name(self) -> str:
        """The pass without its options."""
        return self.text.partition("{")[0]

    def row(self, **columns: object) -> None:
        """Adds a line to the table. Numbers of numpy become Python's; anything else becomes text."""
        self.rows.append({name: _cell(value) for name, value in columns.items()})

    def note(self, text: str, *, asked: bool = False) -> None:
        """Adds a remark, once; `asked` marks what only says back what the options ask for."""
        if text not in self._said:
            self._said.add(text)
            self.notes.append(text)
        if asked:
            self._asked.add(text)

    @property
    def news(self) -> list[str]:
        """The notes that say more than the options do, for a pass that chose these options itself."""
        return [text for text in self.notes if text not in self._asked]


@dataclass
class Report:
    """All entries of a run, in order, and the size of the model around them."""

    model: str = ""
    entries: list[Entry] = field(default_factory=list)
    before: Size | None = None
    after: Size | None = None

    @property
    def rewrites(self) -> int:
        """Of all passes together."""
        return sum(entry.rewrites for entry in self.entries)

    @property
    def seconds(self) -> float:
        """Of all passes together, without what the checks took."""
        return sum(entry.seconds for entry in self.entries)

    def to_json(self, *, timing: bool = True) -> dict[str, Any]:
        """The report as JSON's own types; without timing, equal runs give equal reports."""
        entries: list[dict[str, Any]] = [asdict(entry) for entry in self.entries]
        totals: Mapping[str, Any] = {"rewrites": self.rewrites, "seconds": self.seconds}
        if not timing:
            for entry in entries:
                del entry["seconds"]
            totals = {"rewrites": self.rewrites}
        sizes = {
            name: asdict(size) for name, size in (("before", self.before), ("after", self.after)) if size is not None
        }
        return {"model": self.model, "passes": entries, "totals": {**totals, **sizes}}


def _cell(value: object) -> Cell:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if isinstance(value, str | int | float | bool | None) else str(value)
