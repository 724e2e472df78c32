"""All rules on all of a model: its graph, the bodies in it, and the functions that it calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from secateur.backends.tensorrt.lint import attention, capabilities, operators, quantization, types, variants
from secateur.backends.tensorrt.lint.finding import Finding
from secateur.backends.tensorrt.lint.folding import folded_values
from secateur.backends.tensorrt.lint.interface import emptiness, sizes, value_types, versions
from secateur.backends.tensorrt.lint.rule import Rulebook
from secateur.backends.tensorrt.lint.site import Site, Target
from secateur.backends.tensorrt.profiles import Profile
from secateur.ir.graph import Graph
from secateur.ir.model import FunctionKey
from secateur.ir.node import Value
from secateur.ir.rules.known import Known

RULES = Rulebook(operators.RULES, types.RULES, variants.RULES, attention.RULES, quantization.RULES, capabilities.RULES)


def lint(known: Known, target: Target | None = None, profiles: Sequence[Profile] = ()) -> tuple[Finding, ...]:
    """What TensorRT would refuse, change or slow down in a model, in the order of its ops.

    Args:
        known: the model with the types of its values (`secateur.ir.onnx_shapes.infer`); without types, rules that
            need them are silent.
        target: the package and the compute capabilities; by default TensorRT-RTX for all that it builds for.
        profiles: sizes for inputs that are not fixed.
    """
    walk = _Walk(known, target or Target())
    found = [*emptiness(known.graph), *versions(known.graph), *capabilities.unknown_targets(walk.target)]
    found += [*sizes(known.graph, profiles), *walk.graph(known.graph, (), frozenset())]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class _Walk:
    known: Known
    target: Target

    def graph(self, graph: Graph, inside: tuple[str, ...], around: frozenset[Value]) -> Iterator[Finding]:
        """The findings of a graph and of all that lies in it, with where that is."""
        here = replace(self.known, graph=graph)
        outermost = not graph.is_body and graph is self.known.graph
        yield from self._placed(value_types(here, outermost=outermost), inside)
        yield from self._placed(capabilities.types_without_hardware(here, self.target), inside)
        folded = folded_values(here, around)
        functions = self.known.graph.functions
        for op in graph.ops():
            function = functions.get(FunctionKey(op.domain, op.op_type, op.overload))
            if function is not None:
                yield from self.graph(function, (*inside, f"{op.domain}::{op.op_type}"), frozenset())
                continue
            site = Site(op, here, graph.root.header.opset() or 0, self.target, folded)
            yield from self._placed(RULES.findings(site), inside)
            for body in op.bodies():
                yield from self.graph(body, (*inside, op.title), folded)

    @staticmethod
    def _placed(found: Iterator[Finding], inside: tuple[str, ...]) -> Iterator[Finding]:
        return (replace(one, inside=inside) for one in found)
