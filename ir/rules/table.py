"""Rule tables: what is known of operators, as data, one table for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from secateur.ir.node import Op

Rule = TypeVar("Rule")


class RuleTable(Generic[Rule]):
    """Answers one question about ops, by (domain, op type). An op without a rule is a boundary, never a guess."""

    def __init__(self, question: str) -> None:
        """`question` is what the table answers, for the generated documentation: "which input is a weight"."""
        self.question = question
        self._rules: dict[tuple[str, str], Rule] = {}

    def register(self, *op_types: str) -> Callable[[Rule], Rule]:
        """Decorator: the rule for these op types (`Conv`, or `domain::Conv`).

        Raises:
            ValueError: an op type has a rule already.
        """

        def keep(rule: Rule) -> Rule:
            for op_type in op_types:
                self.add(op_type, rule)
            return rule

        return keep

    def add(self, op_type: str, rule: Rule) -> None:
        """Enters one rule."""
        domain, _, name = op_type.rpartition("::")
        if (domain, name) in self._rules:
            raise ValueError(f"two rules for {op_type}: {self.question}")
        self._rules[(domain, name)] = rule

    def get(self, op: Op) -> Rule | None:
        """The rule for this op, or None."""
        return self._rules.get(op.key)

    def find(self, op_type: str) -> Rule | None:
        """The rule for an op type as it is written here (`Conv`, `domain::Conv`), or None."""
        domain, _, name = op_type.rpartition("::")
        return self._rules.get((domain, name))

    def __contains__(self, op_type: str) -> bool:
        domain, _, name = op_type.rpartition("::")
        return (domain, name) in self._rules

    def __iter__(self) -> Iterator[str]:
        """The op types that have a rule, sorted."""
        return iter(sorted(f"{domain}::{name}" if domain else name for domain, name in self._rules))
