"""`lint`: what TensorRT would refuse, change without a word or slow down, said before a build and without TensorRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.backends.tensorrt import Profile
from secateur.backends.tensorrt.lint import Finding, Severity, Source, Target, parse_target
from secateur.backends.tensorrt.lint import lint as findings_of
from secateur.building import Sizes, range_of
from secateur.feeding import ModelLike, graph_of, title_of
from secateur.ir import Graph
from secateur.ir.onnx_shapes import infer
from secateur.ir.onnx_sparse import sparse_initializers
from secateur.ir.rules.known import Known
from secateur.text import Shown, heading, notes, pairs, table

if TYPE_CHECKING:
    from rich.console import RenderableType

_WORST_FIRST = (Severity.REFUSED, Severity.CHANGED, Severity.SLOWER, Severity.NOTE)


@dataclass(frozen=True)
class LintReport(Shown):
    """The findings of one model against one target (`lint`)."""

    model: str
    target: Target
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        """True where nothing is refused or changed; what is slower, or only noted, does no harm."""
        return not any(finding.is_harmful for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The findings as dicts of strings, with `clean` for the verdict."""
        return {
            "model": self.model,
            "target": str(self.target),
            "clean": self.is_clean,
            "findings": [finding.to_json() for finding in self.findings],
        }

    def blocks(self) -> Iterable[RenderableType]:
        """The verdict, a table of reasons with how often each holds, the worst first, and what to do about each."""
        counts = Counter(finding.severity for finding in self.findings)
        yield heading(f"{self.model} for {self.target}", first=True)
        yield pairs({severity.value: counts[severity] for severity in _WORST_FIRST if counts[severity]} or _NOTHING)
        groups: dict[tuple[Severity, str, str], list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda one: _WORST_FIRST.index(one.severity)):
            groups.setdefault((finding.severity, finding.reason, finding.remedy), []).append(finding)
        if groups:
            yield table([_row(severity, reason, where) for (severity, reason, _), where in groups.items()], gap=True)
            remedies = {f"{reason}: {remedy}": None for _, reason, remedy in groups}
            yield heading("What to do")
            yield from notes(remedies)


_NOTHING = {"findings": "none"}


def _row(severity: Severity, reason: str, where: list[Finding]) -> dict[str, object]:
    first = where[0].node or where[0].value or "the model"
    more = f" and {len(where) - 1} more" if len(where) > 1 else ""
    return {"verdict": severity.value, "where": first + more, "why": reason}


def lint(
    model: ModelLike, *, target: str | Target = "tensorrt-rtx", shapes: Mapping[str, Sizes] | None = None
) -> LintReport:
    """Checks a model against what TensorRT is known to refuse, to change silently, or to do slowly. Builds nothing.

    Args:
        model: an ONNX file, or a graph.
        target: a package and, with commas, compute capabilities: "tensorrt-rtx,8.9". Without them the data types are
            checked against no device.
        shapes: for inputs of no fixed size, as `build` takes them; they are checked against the model.

    Raises:
        ModelError: the file is no model.
        TargetError: there is no such target.
        ProfileError: a shape cannot be read.
    """
    wanted = parse_target(target) if isinstance(target, str) else target
    ranges = tuple(range_of(name, sizes) for name, sizes in (shapes or {}).items())
    graph = graph_of(model)
    found = findings_of(Known(graph, infer(graph)), wanted, (Profile(ranges),) if ranges else ())
    # Read into a graph they are dense; TensorRT's parser, which reads the file, knows no sparse ones.
    sparse = () if isinstance(model, Graph) else sparse_initializers(model)
    stored = tuple(Finding(Severity.REFUSED, "", name, _SPARSE, _DENSE, Source.PARSER) for name in sparse)
    return LintReport(title_of(model), wanted, (*stored, *found))


_SPARSE = "it is stored as a sparse initializer, which TensorRT does not read"
_DENSE = "load the model here and save it again, which stores it densely"
