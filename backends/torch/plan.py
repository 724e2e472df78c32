"""A graph as a list of steps: rules looked up, attributes bound, element types known, and what is freed when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from secateur.backends.torch.call import Rule, torch_rules
from secateur.backends.torch.dtypes import is_known
from secateur.backends.torch.kinds import Kinds, follow
from secateur.ir import Graph, TensorType
from secateur.ir.errors import BackendError
from secateur.ir.model import FunctionKey
from secateur.ir.node import Attribute, Op, Value

_SHOWN = 12
_NOTHING: Mapping[str, Attribute] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Step:
    """One op with its rule; `rule` is None for a call of a local function, whose body is then the only one."""

    op: Op
    rule: Rule | None
    opset: int
    attributes: Mapping[str, Any]
    bodies: Mapping[str, Plan]
    last: tuple[Value, ...]
    """Values that nobody reads later on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph, or the body of an op or a function, ready to be evaluated."""

    graph: Graph
    steps: tuple[Step, ...]
    constants: tuple[Value, ...]
    captured: tuple[Value, ...]
    kinds: Kinds = field(repr=False)


def plan(graph: Graph, rules: Mapping[str, Rule] | None = None) -> Plan:
    """The steps that evaluate a whole graph.

    Args:
        graph: a model, or a part that was extracted from one; it must not be changed while the plan lives.
        rules: more rules than `torch_rules` has, or others, by op type (`Conv`, `domain::Conv`).

    Raises:
        BackendError: ops have no rule (all of them are named), or hold what torch cannot hold.
    """
    planner = _Planner(graph.functions, rules or {})
    made = planner.plan(graph, _NOTHING, {})
    if planner.missing:
        _refuse(planner.missing)
    return made


def _refuse(missing: Mapping[str, str]) -> None:
    shown = [f"{op_type} ({title})" for op_type, title in missing.items()]
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    raise BackendError(
        f"torch has no rule for {', '.join(shown[:_SHOWN])}{more}",
        hint="run this model with onnxruntime, cut the graph around these ops, or add a rule to `torch_rules`",
    )


class _Planner:
    def __init__(self, functions: Mapping[FunctionKey, Graph], rules: Mapping[str, Rule]) -> None:
        self.functions = {_key(*key): body for key, body in functions.items()}
        self.rules = rules
        self.missing: dict[str, str] = {}

    def plan(self, graph: Graph, bound: Mapping[str, Attribute], outer: Kinds) -> Plan:
        kinds: Kinds = dict(outer)
        follow(graph, kinds)
        readers = _last_readers(graph)
        steps = tuple(self._step(graph, op, bound, kinds, readers.get(op, ())) for op in graph.ops())
        constants = tuple(graph.constants())
        for value in (*graph.inputs, *constants):
            if isinstance(value.type, TensorType) and not is_known(value.type.dtype):
                self.missing.setdefault(f"tensors of {value.type.dtype.short}", repr(value.name))
        return Plan(graph, steps, constants, tuple(graph.captured()) if graph.is_body else (), kinds)

    def _step(
        self, graph: Graph, op: Op, bound: Mapping[str, Attribute], kinds: Kinds, last: tuple[Value, ...]
    ) -> Step:
        attributes = _resolved(op.attributes, bound)
        opset = graph.root.header.opset(op.domain) or 1
        function = self.functions.get(_key(op.domain, op.op_type, op.overload))
        if function is not None:
            given = {name: value for name, value in function.header.parameters if value is not None}
            pairs = zip(function.inputs, op.inputs, strict=False)
            fed = {inner: kinds[outer] for inner, outer in pairs if outer is not None and outer in kinds}
            body = self.plan(function, {**given, **attributes}, fed)
            return Step(op, None, opset, {}, {"": body}, last)
        shown = "::".join(part for part in op.key if part)
        rule = self.rules.get(shown) or torch_rules.get(op)
        if rule is None:
            self.missing.setdefault(shown, op.title)
        bodies = {
            name: self.plan(attribute.value, bound, kinds)
            for name, attribute in attributes.items()
            if attribute.graphs() and rule is not None
        }
        plain = {name: attribute.value for name, attribute in attributes.items() if name not in bodies}
        return Step(op, rule, opset, plain, bodies, last)


def _key(domain: str, name: str, overload: str) -> tuple[str, str, str]:
    return ("" if domain == "ai.onnx" else domain, name, overload)


def _resolved(attributes: Mapping[str, Attribute], bound: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Attributes with those of the function call in place of what refers to them; what it leaves out is left out."""
    found = {name: bound.get(one.reference) if one.reference else one for name, one in attributes.items()}
    return {name: attribute for name, attribute in found.items() if attribute is not None}


def _last_readers(graph: Graph) -> dict[Op, tuple[Value, ...]]:
    """Which values may go once an op is done: made or fed here, read by no later op, and no output."""
    kept = {*graph.outputs, *graph.constants()}
    seen: set[Value] = set()
    found: dict[Op, tuple[Value, ...]] = {}
    for op in reversed(graph.ops()):
        around = [value for value in (*_read(graph, op), *op.outputs) if value is not None]
        found[op] = tuple(value for value in dict.fromkeys(around) if value not in seen and value not in kept)
        seen.update(around)
    return found


def _read(graph: Graph, op: Op) -> Iterator[Value | None]:
    yield from op.inputs
    yield from graph.captures(op)
