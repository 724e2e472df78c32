"""A wide last layer, in the place of which a small one says as much of errors before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses_of
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType
from secateur.passes.cleanup.shapes import known
from secateur.passes.layers.matrix import Array, matrix_of


def narrowed(present: Known, dense: Known) -> tuple[Known, Known]:
    """Two models whose wide last layers are replaced, each as a clone; the models themselves where there are none.

    What the last layer makes of its inputs, `x A.T` in the present model and `y B.T` in the dense one, is compared by
    squared errors. `[A B].T [A B] = C C.T` for a C with no more columns than A and B have together, so that with the
    rows of C in the place of A.T and B.T the squared errors are the same numbers: for a vocabulary of 49,152 and 576
    channels in an 85th of the memory. Such layers are not fitted: language models share them with their embeddings.
    """
    pairs = [pair for value in present.graph.outputs if (pair := _pair(value, present, dense)) is not None]
    if not pairs:
        return present, dense
    clones = present.graph.clone(), dense.graph.clone()
    for pair in pairs:
        for graph, use, rows in zip(clones, pair, _roots(*(matrix_of(one) for one in pair)), strict=True):
            _replace(graph, use, rows)
    return known(clones[0]), known(clones[1])


def _pair(value: Value, present: Known, dense: Known) -> tuple[WeightUse, WeightUse] | None:
    """How both models make an output, where they do so by wide matrices."""
    other = dense.graph.get(value.name)
    uses = _readout(present, value), None if other is None else _readout(dense, other)
    if uses[0] is None or uses[1] is None or uses[0].outputs != uses[1].outputs:
        return None
    return (uses[0], uses[1]) if uses[0].outputs > uses[0].inputs + uses[1].inputs else None


def _readout(known: Known, value: Value) -> WeightUse | None:
    """The matrix that makes a value which is read by nobody inside."""
    op = known.graph.producer(value)
    if op is None or op.key != ("", "MatMul") or known.graph.consumers(value):
        return None
    return next((use for use in weight_uses_of(known, op) if use.port == 1 and use.slabs == 1), None)


def _roots(present: Array, dense: Array) -> tuple[Array, Array]:
    """For matrices [outputs, inputs] what takes their places, each [inputs, columns]."""
    if np.array_equal(present, dense):
        root = _root(dense.T @ dense)
        return root, root
    both = np.concatenate([present, dense], axis=1)
    root = _root(both.T @ both)
    return root[: present.shape[1]], root[present.shape[1] :]


def _root(gram: Array) -> Array:
    """C with C C.T = gram, symmetric positive semidefinite, without columns that are nought."""
    spectrum, vectors = np.linalg.eigh(gram)
    kept = spectrum > spectrum[-1] * np.finfo(np.float64).eps * len(spectrum)
    return np.asarray(vectors[:, kept] * np.sqrt(spectrum[kept]))


def _replace(graph: Graph, use: WeightUse, rows: NDArray[np.float64]) -> None:
    """Makes an op multiply by `rows` [inputs, columns]."""
    output = graph[use.op.output.name]
    op = graph.producer(output)
    assert op is not None and op.inputs[0] is not None, "a clone has the ops of its original"
    dtype = use.tensor.dtype
    weight = graph.add_constant(f"{use.weight.name}_root", Tensor(rows.astype(dtype.numpy), dtype))
    graph.set_inputs(op, [op.inputs[0], weight])
    if isinstance(output.type, TensorType) and output.type.shape is not None:
        output.type = TensorType(output.type.dtype, (*output.type.shape[:-1], rows.shape[1]))
