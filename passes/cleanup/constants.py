"""`fold-constants`: what depends on constants only is computed now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.clone import clone_op
from secateur.ir.errors import SecateurError
from secateur.ir.node import ConstantNode
from secateur.ir.rules.known import Known
from secateur.ir.rules.weight_reading import reading
from secateur.ir.runner import RunnerFactory
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.passes.base import Pass
from secateur.passes.cleanup.purity import is_repeatable
from secateur.passes.cleanup.shape_values import shape_value
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.parts import parts
from secateur.passes.rewriter import sweep

_KEPT = frozenset({"DequantizeLinear", "DynamicQuantizeLinear"})
"""Folding these would turn a quantized weight back into floating point."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """`y = op(constants)` becomes the constant y, and so does what follows from shapes that are known.

    The runtime that was handed in computes the values, all of a body in one run; without one, only shapes are folded,
    which need none. Ops that draw random numbers, that dequantize, or that hold bodies stay; bodies are folded inside.
    """

    name: ClassVar[str] = "fold-constants"
    changes: ClassVar[Facet] = Facet.TOPOLOGY
    effect: ClassVar[Effect] = Effect.EXACT

    max_bytes: int = 1 << 20
    """The largest constant to be made, unless it takes the place of others that are as large together."""

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many values became constants."""
        folded = 0
        while True:
            facts = context.facts.get(known)
            now = 0
            for part in parts(graph):
                here = replace(facts, graph=part)
                now += _fold_shapes(here, context) + self._fold_ops(here, context)
            folded += now
            if now == 0:
                break
            context.facts.drop(self.changes)
        if folded:
            context.row(values=folded)
        return folded

    def _fold_ops(self, here: Known, context: Context) -> int:
        ops = self._constant_ops(here)
        wanted = {value: op for op in ops for value in op.outputs if value is not None and _is_needed(here, value, ops)}
        if not wanted:
            return 0
        if context.runner is None:
            context.note("no runtime was given, so only shapes were folded")
            return 0
        allowed = {op: context.allow("fold", op) for op in dict.fromkeys(wanted.values())}
        wanted = {value: op for value, op in wanted.items() if allowed[op]}
        values = _evaluate(here.graph, ops, list(wanted), context.runner, context)
        folded = 0
        for value, array in values.items():
            tensor = Tensor(np.ascontiguousarray(array), _dtype(here, value))
            if tensor.nbytes <= self._limit(here, wanted[value]):
                _replace_by_constant(here.graph, value, tensor)
                folded += 1
        return folded

    def _constant_ops(self, here: Known) -> dict[Op, None]:
        """The ops whose inputs are constants, or made by such ops, and whose outputs are not too large."""
        part = here.graph
        found: dict[Op, None] = {}
        for op in part.ops():
            if op.op_type in _KEPT or not op.inputs or not is_repeatable(op, part):
                continue
            if not all(v is None or part.constant(v) is not None or part.producer(v) in found for v in op.inputs):
                continue
            made = sum(_bytes(here, value) or 0 for value in op.outputs if value is not None)
            if made <= self._limit(here, op) and all(v is None or _is_plain(here, v) for v in op.outputs):
                found[op] = None
        return found

    def _limit(self, here: Known, op: Op) -> int:
        """Bytes that folding `op` may make: as many as it saves, and some in any case."""
        saved = 0
        for value in dict.fromkeys(op.inputs):
            if value is not None and here.graph.consumers(value) == [op] and value not in here.graph.outputs:
                saved += _bytes(here, value) or 0
        return max(saved, self.max_bytes)


def _is_needed(here: Known, value: Value, ops: dict[Op, None]) -> bool:
    part = here.graph
    return value in part.outputs or any(user not in ops for user in part.consumers(value))


def _is_plain(here: Known, value: Value) -> bool:
    """A tensor of known element type that is not packed and holds no strings."""
    dtype = _dtype(here, value)
    return dtype is not None and dtype.bits >= 8


def _dtype(here: Known, value: Value) -> DataType | None:
    kind = here.types.get(value, value.type)
    return kind.dtype if isinstance(kind, TensorType) and kind.dtype is not DataType.UNDEFINED else None


def _bytes(here: Known, value: Value) -> int | None:
    if value.const is not None:
        return value.const.nbytes
    shape, dtype = here.shape(value), _dtype(here, value)
    if shape is None or dtype is None:
        return None
    sizes = [dim for dim in shape if isinstance(dim, int)]
    return (int(np.prod(sizes, dtype=np.int64)) * dtype.bits + 7) // 8 if len(sizes) == len(shape) else None


def _evaluate(
    part: Graph, ops: dict[Op, None], wanted: list[Value], runner: RunnerFactory, context: Context
) -> dict[Value, NDArray[np.generic]]:
    """The values that the runtime computes; where it cannot do all together, those that it can do one by one."""
    if not wanted:
        return {}
    program = _program(part, ops, wanted)
    try:
        with runner(program) as ready:
            arrays = ready.run({})
    except SecateurError as error:
        if len(wanted) == 1:
            context.note(f"{wanted[0].name} was not folded: {error.message}")
            return {}
        single = [_evaluate(part, ops, [value], runner, context) for value in wanted]
        return {value: array for found in single for value, array in found.items()}
    return {value: arrays[value.name] for value in wanted}


def _program(part: Graph, ops: dict[Op, None], wanted: list[Value]) -> Graph:
    """The ops that lead to the wanted values, as a model of their own without inputs."""
    needed: set[Op] = set()
    waiting = [op for value in wanted if (op := part.producer(value)) is not None]
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [maker for v in op.inputs if v is not None and (maker := part.producer(v)) is not None]
    program = Graph("constants", header=part.root.header)
    copies: dict[Value, Value] = {}
    for op in (op for op in ops if op in needed):
        for value in op.inputs:
            if value is not None and value not in copies:
                copies[value] = program.add_value(replace(value, node=None))
        copies.update((value, replace(value)) for value in op.outputs if value is not None)
        program.add_op(clone_op(op, copies))
    program.set_interface(outputs=[copies[value] for value in wanted])
    return program


def _fold_shapes(here: Known, context: Context) -> int:
    folded = 0
    part = here.graph
    for op in part.ops():
        if op not in part or not op.outputs or op.outputs[0] is None or not part.is_used(op.output):
            continue
        found = shape_value(here, op)
        if found is not None and context.allow("fold-shape", op):
            _replace_by_constant(part, op.output, Tensor(found))
            folded += 1
    return folded


def _replace_by_constant(part: Graph, value: Value, tensor: Tensor) -> None:
    """A constant takes the place and the name of a value; as an output of the graph it leaves as a Constant node."""
    op = part.producer(value)
    assert op is not None
    name, scheme = value.name, _kept_scheme(part, value)
    node = ConstantNode() if value in part.outputs else None
    part.rename(value, part.unique_name(f"{name}_folded"))
    kind = value.type if value in part.outputs else TensorType(tensor.dtype, tensor.shape)
    constant = part.add_value(Value(name, kind, tensor, node, value.doc, value.metadata))
    if scheme is not None and scheme.holds(tensor):
        scheme.mark(constant)
    part.replace_all_uses(value, constant)
    sweep(part, op)


def _kept_scheme(part: Graph, value: Value) -> SparsityScheme | None:
    """The zeros that a value should have, as only moves and retypes lie between a marked constant and it."""
    op = part.producer(value)
    read = None if op is None else op.input(0)
    scheme = None if read is None else SparsityScheme.of(read)
    found = None if scheme is None else reading(Known(part), value)
    if scheme is None or found is None or (scheme.axis,) not in found.axes:
        return None
    return replace(scheme, axis=found.axes.index((scheme.axis,)))
