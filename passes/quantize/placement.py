"""Where data is quantized: rules, each with the reason for which TensorRT wants it so.

Weighted ops compute in few bits where both their operands come from a DequantizeLinear, with one scale for all of the
data (NVIDIA, TensorRT developer guide, "Explicit quantization"). Outputs are not quantized as such: that is up to who
reads them. So nothing lies between a convolution and the BatchNormalization or activation that it is fused with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes.quantize.formats import Format
from secateur.passes.quantize.layers import Layer

_FUSED = frozenset({"BatchNormalization", "Clip", "Gelu", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Swish"})
"""What the builder computes in the same kernel as the convolution or product before it."""
_SAME_RANGE = frozenset(
    {"Concat", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Ops that move numbers without changing them: with one scale on both sides, they run on codes."""


@dataclass(frozen=True)
class Site:
    """A port that is to read quantized data, and the rule that wants it."""

    op: Op
    port: int
    format: Format
    reason: str

    @property
    def value(self) -> Value:
        """What is quantized for it."""
        value = self.op.inputs[self.port]
        assert value is not None
        return value


@dataclass(frozen=True)
class Plan:
    """What rules see: the graph, and the layers whose weights are quantized."""

    known: Known
    layers: Sequence[Layer]

    @property
    def graph(self) -> Graph:
        """The graph."""
        return self.known.graph


Rule: TypeAlias = Callable[[Plan], Iterator[Site]]


def layer_inputs(plan: Plan) -> Iterator[Site]:
    """What a quantized weight multiplies: with one operand in float, all is computed in float."""
    for layer in plan.layers:
        if layer.format.reads_data:
            for use in layer.uses:
                yield Site(use.op, use.op.inputs.index(use.data), layer.format, "reads a quantized weight")


def attention_products(plan: Plan) -> Iterator[Site]:
    """Queries with keys, and attention with values: products of data, both operands of which have to be quantized."""
    formats = {layer.format for layer in plan.layers if layer.format.data is not None}
    if len(formats) != 1:
        return
    (common,) = formats
    for op in plan.graph.ops():
        if op.key != ("", "MatMul") or not _is_product_of_data(plan, op):
            continue
        for port in (0, 1):
            yield Site(op, port, common, "a product of data")


def _is_product_of_data(plan: Plan, op: Op) -> bool:
    known = plan.known
    ranks = [known.rank(value) for value in op.inputs]
    made = all(_is_computed(plan.graph, value) for value in op.inputs)
    return made and all(rank is not None and rank >= 3 for rank in ranks)


def _is_computed(graph: Graph, value: Value | None) -> bool:
    maker = None if value is None or value not in graph else graph.producer(value)
    return maker is not None and maker.op_type not in ("QuantizeLinear", "DequantizeLinear")


def residual_shortcuts(plan: Plan) -> Iterator[Site]:
    """The other operand of an Add that a convolution is fused with, where the sum is quantized for all who read it.

    The convolution's kernel can then add codes and give codes; else it writes floats.
    """
    layers = {use.op: layer.format for layer in plan.layers for use in layer.uses if use.taps and layer.format.data}
    quantized = {(use.op, use.op.inputs.index(use.data)) for layer in plan.layers for use in layer.uses}
    for op in plan.graph.ops():
        if op.key != ("", "Add") or len(op.inputs) != 2:
            continue
        made = [_convolution_behind(plan.graph, value, layers) for value in op.inputs]
        sums = tail(plan.graph, op)
        readers = plan.graph.uses(sums)
        if not any(made) or not readers or sums in plan.graph.outputs:
            continue
        if not all(reader in quantized or reader[0].key == ("", "Add") for reader in readers):
            continue
        # Where both sides are convolutions, the Add goes with the later one.
        fused = 1 if made[1] is not None else 0
        other = op.inputs[1 - fused]
        owner = made[fused]
        if owner is not None and other is not None and _is_computed(plan.graph, other):
            yield Site(op, 1 - fused, layers[owner], "added to what a convolution gives")


def _convolution_behind(graph: Graph, value: Value | None, layers: dict[Op, Format]) -> Op | None:
    """The quantized convolution whose output, normalised or not, is this value and goes nowhere else."""
    while value is not None and value in graph and len(graph.uses(value)) == 1 and value not in graph.outputs:
        maker = graph.producer(value)
        if maker is None or maker in layers:
            return maker
        if maker.key != ("", "BatchNormalization"):
            return None
        value = maker.input(0)
    return None


def sparse_convolutions(plan: Plan) -> Iterator[Site]:
    """What a 2:4 convolution gives, behind what it is fused with: sparse INT8 kernels that write floats are few.

    NVIDIA/TensorRT issue 4694.
    """
    return _sparse_outputs(plan, convolutions=True)


def sparse_products(plan: Plan) -> Iterator[Site]:
    """The same of matrix products: a trunk and scores, whose few large channels eight bits do not hold."""
    return _sparse_outputs(plan, convolutions=False)


def _sparse_outputs(plan: Plan, *, convolutions: bool) -> Iterator[Site]:
    for layer in plan.layers:
        if layer.format.data is None or SparsityScheme.of(layer.weight) is None:
            continue
        for use in layer.uses:
            made = tail(plan.graph, use.op)
            if bool(use.taps) is convolutions and made not in plan.graph.outputs:
                for op, port in plan.graph.uses(made):
                    yield Site(op, port, layer.format, "made by a 2:4 layer")


def tail(graph: Graph, op: Op) -> Value:
    """The last value of the kernel that an op is fused into: through a bias, a normalisation and an activation."""
    value = op.output
    while value not in graph.outputs and len(readers := graph.uses(value)) == 1:
        (reader, port) = readers[0]
        is_bias = reader.key == ("", "Add") and graph.constant(reader.inputs[1 - port]) is not None
        if reader.domain or len(reader.outputs) != 1 or not (is_bias or (reader.op_type in _FUSED and port == 0)):
            break
        value = reader.output
    return value


def place(plan: Plan, rules: Sequence[Rule]) -> list[Site]:
    """The ports that any rule wants quantized, each once, in the order of the rules."""
    found: dict[tuple[Op, int], Site] = {}
    for rule in rules:
        for site in rule(plan):
            found.setdefault((site.op, site.port), site)
    return list(found.values())


def sharing(graph: Graph, values: Sequence[Value]) -> list[list[Value]]:
    """The values in groups that are to share a scale: those that differ by where numbers lie alone."""
    group = {value: {value} for value in values}
    for value in values:
        for behind in _behind(graph, value):
            if behind in group and group[behind] is not group[value]:
                joined = group[behind] | group[value]
                group.update(dict.fromkeys(joined, joined))
    order = {value: index for index, value in enumerate(values)}
    distinct = {id(one): one for one in group.values()}
    return sorted((sorted(one, key=order.__getitem__) for one in distinct.values()), key=lambda one: order[one[0]])


def _behind(graph: Graph, value: Value) -> Iterator[Value]:
    """The values that a value's numbers are taken from, by ops that only move them."""
    pending, seen = [value], {value}
    while pending:
        maker = graph.producer(pending.pop())
        if maker is None or maker.domain or maker.op_type not in _SAME_RANGE:
            continue
        data = maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]
        for one in data:
            if one is not None and one in graph and one not in seen:
                seen.add(one)
                yield one
                pending.append(one)
