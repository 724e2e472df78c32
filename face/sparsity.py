"""`sparsity`: which weights of a model are N:M along the axis that is summed over, and why others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from secateur.feeding import ModelLike, graph_of, title_of
from secateur.ir import Graph
from secateur.ir.errors import RefusedError
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.sparsity import Sparsity, sparsities
from secateur.text import Shown, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class SparsityRow:
    """One weight as one op reads it.

    `size` is how many numbers an output sums over along `axis`, at each tap of a kernel. `zeros` is a share in [0, 1].
    `pattern` is the tightest N:M that holds along the axis (of quantized weights, of their codes), None where none
    does. `holds` says whether the pattern that was asked for does, `reason` why not, or why it is in vain. `useful`:
    it fits, and sparse kernels exist for such ops and sizes (inputs in 16s, outputs in 8s, no groups).
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    axis: int
    size: int
    zeros: float
    pattern: str | None
    holds: bool
    useful: bool
    reason: str | None

    def cells(self, asked: str) -> dict[str, object]:
        """The columns of a table."""
        return {
            "weight": self.name,
            "op": self.op.partition(" ")[0],
            "shape": "x".join(map(str, self.shape)),
            "type": self.dtype,
            "axis": self.axis,
            "zeros": f"{self.zeros:.1%}",
            "tightest": self.pattern,
            asked: self.holds,
        }


@dataclass(frozen=True)
class SparsityReport(Shown):
    """All weights of a model against one pattern, those of bodies and functions behind those of the graph itself."""

    model: str
    pattern: str
    weights: tuple[SparsityRow, ...]
    remarks: tuple[str, ...]

    @property
    def is_sparse(self) -> bool:
        """True where there are weights that have the pattern, and all have it for which it is useful."""
        return any(row.holds for row in self.weights) and all(row.holds for row in self.weights if row.useful)

    def to_json(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers, with `sparse` for the verdict."""
        return {**asdict(self), "sparse": self.is_sparse}

    def blocks(self) -> Iterable[RenderableType]:
        """The verdict, the weights, and the reasons of those that lack the pattern."""
        useful = [row for row in self.weights if row.useful]
        with_pattern = [row for row in self.weights if row.holds]
        yield heading(self.model, first=True)
        yield pairs(
            {
                f"weights that are {self.pattern}": f"{len(with_pattern)} of {len(self.weights)}",
                "of those for which it is useful": f"{sum(row.holds for row in useful)} of {len(useful)}",
            }
        )
        if self.weights:
            yield table([row.cells(self.pattern) for row in self.weights], gap=True)
        reasons: dict[str, list[str]] = {}
        for row in self.weights:
            if row.reason is not None:
                reasons.setdefault(row.reason, []).append(row.name)
        yield from notes(f"{_few(names)}: {reason}" for reason, names in reasons.items())
        yield from notes(self.remarks)


def sparsity_report(model: ModelLike, *, pattern: str = "2:4") -> SparsityReport:
    """Looks for zeros in a pattern in every weight of a model, whoever made it.

    Weights are read one by one, a piece at a time. Ops are looked through that only move or retype a weight between
    its constant and the op that sums over it.

    Args:
        model: a graph or an ONNX file.
        pattern: N:M, of any M neighbours at most N are not zero.

    Raises:
        ModelError: the file is no model.
        GraphError: the graph is not well formed.
        RefusedError: the pattern is none.
    """
    keep, group = _parsed(pattern)
    graph = graph_of(model)
    graph.verify()
    found: list[Sparsity] = []
    for part in _parts(graph):
        found.extend(sparsities(Known(part, infer(graph)) if part is graph else Known(part)))
    rows = tuple(_row(one, keep, group) for one in found)
    return SparsityReport(title_of(model), f"{keep}:{group}", rows, tuple(_remarks(graph, found)))


def _parsed(pattern: str) -> tuple[int, int]:
    keep, _, group = pattern.partition(":")
    if not (keep.isascii() and keep.isdigit() and group.isascii() and group.isdigit() and 0 < int(keep) < int(group)):
        raise RefusedError(f"{pattern!r} is no pattern", hint="write N:M with 0 < N < M, such as 2:4")
    return int(keep), int(group)


def _parts(graph: Graph) -> Iterator[Graph]:
    for whole in (graph, *graph.functions.values()):
        yield from whole.graphs()


def _row(found: Sparsity, keep: int, group: int) -> SparsityRow:
    use = found.use
    return SparsityRow(
        name=use.weight.name,
        op=use.op.title,
        shape=use.tensor.shape,
        dtype=use.tensor.dtype.short,
        axis=use.contracted,
        size=found.size,
        zeros=found.zeros,
        pattern=found.pattern,
        holds=found.holds(keep, group),
        useful=found.could(keep, group),
        reason=found.reason(keep, group),
    )


def _remarks(graph: Graph, found: Iterable[Sparsity]) -> Iterator[str]:
    """Which ops read constants of two axes or more that no rule calls a weight."""
    seen = {one.use.weight for one in found}
    others: Counter[str] = Counter()
    for part in _parts(graph):
        for value in part.constants():
            if value in seen or value.const is None or not value.const.dtype.is_float:
                continue
            if sum(size > 1 for size in value.const.shape) > 1:
                others.update(sorted({op.op_type for op in part.consumers(value)}))
    if others:
        yield f"other constants of two axes or more, which nothing here sums over: {_counted(others)}"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} read by {kind}" for kind, count in sorted(kinds.items()))


def _few(names: list[str]) -> str:
    shown = ", ".join(dict.fromkeys(names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
