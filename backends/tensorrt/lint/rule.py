"""What a rule is: the ops that it looks at, how it finds fault with one, and what to do then. Families are tuples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from secateur.backends.tensorrt.lint.finding import Finding, Severity, Source
from secateur.backends.tensorrt.lint.site import Site

Check = Callable[[Site], "str | None"]
"""Why TensorRT does not do what the op at a site says; None where it does, or where that is not known."""


@dataclass(frozen=True)
class Rule:
    """`ops` are of the default domain, or written `domain::Conv`; () is every op of any domain."""

    ops: tuple[str, ...]
    check: Check
    remedy: str
    source: Source = Source.PARSER
    severity: Severity = Severity.REFUSED

    def findings(self, site: Site) -> Iterator[Finding]:
        """What the rule says of one op: nothing, or one finding."""
        reason = self.check(site)
        if reason is not None:
            yield Finding(self.severity, site.op.title, "", reason, self.remedy, self.source)


class Rulebook:
    """Rules by the op types that they look at."""

    def __init__(self, *families: Iterable[Rule]) -> None:
        self._rules: dict[tuple[str, str], list[Rule]] = {}
        self._every: list[Rule] = []
        for rule in (rule for family in families for rule in family):
            if not rule.ops:
                self._every.append(rule)
            for written in rule.ops:
                domain, _, name = written.rpartition("::")
                self._rules.setdefault((domain, name), []).append(rule)

    def findings(self, site: Site) -> Iterator[Finding]:
        """What all rules say of one op."""
        for rule in (*self._every, *self._rules.get(site.op.key, ())):
            yield from rule.findings(site)


def says(words: Callable[[Site], bool], reason: str) -> Check:
    """The check that gives `reason` wherever `words` holds."""
    return lambda site: reason if words(site) else None
