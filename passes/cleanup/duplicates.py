"""`merge-duplicates`: what is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from secateur.ir import Attribute, DataType, Graph, Op, Tensor, Value
from secateur.passes.base import Pass
from secateur.passes.cleanup.purity import is_repeatable
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts
from secateur.passes.rewriter import keeps_name, replace_value, sweep

_SAMPLE = 64


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Of ops with equal types, attributes and inputs the first stays; of large equal constants one stays.

    Value numbering, in the order of the ops, within one body at a time (Cocke, 1970, "Global common subexpression
    elimination"). Equal constants count as equal inputs whatever their size. Ops that draw random numbers, ops of
    domains that are not ONNX's own and ops with bodies are left alone.
    """

    name: ClassVar[str] = "merge-duplicates"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.ATTRIBUTES | Facet.SHAPE | Facet.DTYPE
    effect: ClassVar[Effect] = Effect.EXACT

    min_bytes: int = 65536
    """Constants from this size on become one; smaller ones stay apart, so that each can be changed alone."""

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops and constants went."""
        ops = constants = 0
        for part in parts(graph):
            numbers = _number_constants(part)
            constants += self._merge_constants(part, numbers)
            ops += _merge_ops(part, numbers, context)
        if ops + constants:
            context.row(ops=ops, constants=constants)
        return ops + constants

    def _merge_constants(self, part: Graph, numbers: dict[Value, Value]) -> int:
        merged = 0
        for value, first in numbers.items():
            tensor = value.const
            if value is first or tensor is None or tensor.nbytes < self.min_bytes or value in part.outputs:
                continue
            part.replace_all_uses(value, first)
            part.remove(value)
            merged += 1
        return merged


def _number_constants(part: Graph) -> dict[Value, Value]:
    """Each constant with the first one that equals it. Reads a few elements of most, all of those that may match."""
    classes: dict[Hashable, list[Value]] = {}
    numbers: dict[Value, Value] = {}
    for value in part.constants():
        tensor = part.constant(value)
        if tensor is None:
            continue
        alike = classes.setdefault(_sample(tensor), [])
        equal = next((one for one in alike if one.const is not None and one.const.equals(tensor)), None)
        numbers[value] = equal or value
        if equal is None:
            alike.append(value)
    return numbers


def _sample(tensor: Tensor) -> Hashable:
    if tensor.dtype is DataType.STRING:
        return tensor.dtype, tensor.digest
    flat = tensor.numpy().reshape(-1)
    return tensor.dtype, tensor.shape, flat[:_SAMPLE].tobytes(), flat[-_SAMPLE:].tobytes()


def _merge_ops(part: Graph, numbers: dict[Value, Value], context: Context) -> int:
    seen: dict[Hashable, Op] = {}
    merged = 0
    for op in part.ops():
        if not is_repeatable(op, part):
            continue
        first = seen.setdefault(_key(op, numbers), op)
        if first is op or not _can_stand_in(part, first, op) or not context.allow("merge", op):
            continue
        for old, new in zip(op.outputs, first.outputs, strict=True):
            if old is not None and new is not None:
                replace_value(part, old, new)
        sweep(part, op)
        merged += 1
    return merged


def _can_stand_in(part: Graph, first: Op, second: Op) -> bool:
    pairs = zip(first.outputs, second.outputs, strict=True)
    return all(new is None or old not in part.outputs or keeps_name(part, new) is None for new, old in pairs)


def _key(op: Op, numbers: dict[Value, Value]) -> Hashable:
    inputs = tuple(None if value is None else numbers.get(value, value) for value in op.inputs)
    attributes = tuple(sorted((name, _attribute_key(attribute)) for name, attribute in op.attributes.items()))
    return op.key, op.overload, inputs, attributes, tuple(value is None for value in op.outputs)


def _attribute_key(attribute: Attribute) -> str:
    """Equal for equal attributes; numbers by their bits, tensors by their digests."""
    value = attribute.value
    items = value if isinstance(value, tuple) else (value,)
    shown = [item.digest if isinstance(item, Tensor) else repr(item) for item in items]
    return f"{attribute.kind.name}:{shown}"
