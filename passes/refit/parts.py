"""Which parts of a model are fitted, one after the other, and which of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.calib.batches import Source
from secateur.calib.capture import Part
from secateur.ir.blocks import Block
from secateur.ir.extract import extract_shapes
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_use
from secateur.ir.runner import RunnerFactory
from secateur.ir.types import TensorType
from secateur.passes.layers.stages import trunk_blocks

SPARSE = 0.1
"""A weight with at least this share of zeros has been sparsified."""

_NORMS = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"})
_SKIP_NORMS = frozenset({"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
_SCALES = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"})
_PROBABILITIES = frozenset({"LogSoftmax", "Softmax"})


def shared_parts(present: Known, dense: Known, span: int, source: Source, factory: RunnerFactory) -> list[Block]:
    """Parts of the present model that end with a value that the dense one has too, of the same name and shape.

    Neighbours are joined until that is so. What has no matrix, an activation or a norm, goes with what is before it:
    only what becomes of a value counts. Probabilities, and what is behind them, are left out: logits say more.

    Args:
        present: the model that is fitted.
        dense: the model that says what should come out.
        span: how many parts are joined to one besides; 0 joins them all.
        source: its first batch shows which shapes values have.
        factory: runs both models on it.
    """
    found = trunk_blocks(present.graph)
    ends = [block.exit.name for block in found if _has_numbers(block.exit.name, present, dense)]
    shapes = [_shapes(graph, ends, source, factory) for graph in (present.graph, dense.graph)]
    same = {name for name in ends if shapes[0][name] == shapes[1][name]}
    parts: list[list[Block]] = []
    waiting: list[Block] = []
    for block in found:
        if (last := present.graph.producer(block.exit)) is not None and last.op_type in _PROBABILITIES:
            break
        waiting.append(block)
        if block.exit.name not in same:
            continue
        if parts and not any(_matrices(present, one) for one in waiting):
            parts[-1] += waiting
        else:
            parts.append(waiting)
        waiting = []
    size = span or max(1, len(parts))
    groups = [parts[start : start + size] for start in range(0, len(parts), size)]
    return [_joined([block for part in group for block in part]) for group in groups]


def weights_of(known: Known, block: Block) -> list[Value]:
    """What can be fitted of a block: its layers' weights and biases, and vectors that norms and others scale by.

    Only what nothing outside the block reads, and only along the way from the block's entry: no tables, no masks.
    """
    inside, graph = set(block.ops), known.graph
    found: dict[Value, None] = {}
    for op in _behind(graph, block):
        for value in _read(known, op):
            tensor = None if value is None else graph.constant(value)
            if value is None or value.const is None or tensor is None or not tensor.dtype.is_float:
                continue
            if np.prod(tensor.shape) > 1 and value not in graph.outputs and inside.issuperset(graph.consumers(value)):
                found[value] = None
    return list(found)


def movable(value: Value, keep_zeros: bool) -> NDArray[np.bool_] | None:
    """True where an element of a weight may change; None for all of them."""
    assert value.const is not None
    array = value.const.numpy()
    stays = np.asarray(array == 0)
    return ~stays if keep_zeros and array.ndim > 1 and stays.mean() >= SPARSE else None


def _read(known: Known, op: Op) -> Iterator[Value | None]:
    use = weight_use(known, op)
    if use is not None:
        yield op.inputs[use.port]
        yield use.bias
    elif op.op_type in _NORMS:
        yield from (op.input(1), op.input(2))
    elif op.op_type in _SKIP_NORMS:
        yield from (op.input(2), op.input(3))
    elif op.op_type in _SCALES:
        yield op.input(1)
    elif op.key in {("", "Add"), ("", "Mul")}:
        for value in op.inputs:
            tensor = known.constant(value)
            if tensor is not None and sum(size > 1 for size in tensor.shape) == 1:
                yield value


def _behind(graph: Graph, block: Block) -> list[Op]:
    """The ops of a block that its entry has a part in."""
    reached: set[Op | Value] = {block.entry}
    found = []
    for op in block.ops:
        if not reached.isdisjoint(graph.nx.pred[op]):
            reached.update(value for value in op.outputs if value is not None)
            found.append(op)
    return found


def _matrices(known: Known, block: Block) -> bool:
    return any(weight_use(known, op) is not None for op in block.ops)


def _joined(found: Sequence[Block]) -> Block:
    return Block(found[0].entry, found[-1].exit, tuple(op for block in found for op in block.ops))


def _has_numbers(name: str, present: Known, dense: Known) -> bool:
    """Whether both models have a tensor of this name, of real numbers as far as the type is known."""
    for known in (present, dense):
        value = known.graph.get(name)
        if value is None:
            return False
        kind = known.types.get(value, value.type)
        if kind is not None and not (isinstance(kind, TensorType) and kind.dtype.is_float):
            return False
    return True


def _shapes(graph: Graph, names: Sequence[str], source: Source, factory: RunnerFactory) -> dict[str, tuple[int, ...]]:
    """What shapes values have for the first batch."""
    if not names:
        return {}
    part = extract_shapes(graph, None, names)
    with factory(part) as runner:
        _, batch = next(Part(graph, source).walk())
        made = runner.run(batch.feeds)
    return {name: tuple(made[out.name].tolist()) for name, out in zip(names, part.outputs, strict=True)}
