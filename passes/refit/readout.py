"""A wide last layer, in the place of which a small one says as much of errors before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from secateur.calib.output_error import meanings
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses_of
from secateur.ir.tensor import Tensor
from secateur.ir.types import TensorType
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.layers.answers import some_samples
from secateur.passes.layers.matrix import Array, matrix_of

_CARRIED = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What may lie between a constant and the op that multiplies by it: neither its numbers nor their type change."""
SAMPLES = 8
"""So many samples say what the model believes."""


def narrowed(present: Known, dense: Known, context: Context) -> tuple[Known, Known]:
    """Two models whose wide last layers are replaced, each as a clone; the models themselves where there are none.

    A last layer makes logits `x A.T` of its inputs in the present model and `y B.T` in the dense one. Half of
    `d.T F d` is the divergence of answers to second order, for a difference d of logits and F the Fisher information of
    the dense model's beliefs p, here the mean of `diag(p) - p p.T` over some samples (Martens 2020, "New Insights and
    Perspectives on the Natural Gradient Method"). With `[A B].T F [A B] = C C.T`, and the rows of C in the place of A.T
    and B.T, squared errors are these numbers: tokens count by how likely they are, and of a vocabulary of 49,152 no
    more is in memory than the 576 channels that it is made of.

    Such layers are not fitted themselves: language models share them with their embeddings.
    """
    meant = meanings(present)
    logits = [value for value in present.graph.outputs if meant.get(value.name) == "logits"]
    pairs = [pair for value in logits if (pair := _pair(value, present, dense)) is not None]
    if not pairs:
        return present, dense
    clones = present.graph.clone(), dense.graph.clone()
    for pair in pairs:
        for graph, use, rows in zip(clones, pair, _roots(pair, dense, context), strict=True):
            _replace(graph, use, rows)
    return known(clones[0]), known(clones[1])


def _pair(value: Value, present: Known, dense: Known) -> tuple[WeightUse, WeightUse] | None:
    """How both models make an output, where they do so by matrices with more outputs than both have inputs."""
    other = dense.graph.get(value.name)
    uses = _readout(present, value), None if other is None else _readout(dense, other)
    if uses[0] is None or uses[1] is None or uses[0].outputs != uses[1].outputs:
        return None
    return (uses[0], uses[1]) if uses[0].outputs > uses[0].inputs + uses[1].inputs else None


def _readout(known: Known, value: Value) -> WeightUse | None:
    """The matrix of real numbers, not codes, that makes a value which is read by nobody inside."""
    op = known.graph.producer(value)
    if op is None or op.key != ("", "MatMul") or known.graph.consumers(value):
        return None
    uses = (use for use in weight_uses_of(known, op) if use.port == 1 and use.slabs == 1)
    return next((use for use in uses if all(one.op_type in _CARRIED for one in use.chain)), None)


def _roots(pair: tuple[WeightUse, WeightUse], dense: Known, context: Context) -> tuple[Array, Array]:
    """What takes the places of two matrices [outputs, inputs], each [inputs, columns]."""
    ours, theirs = (matrix_of(use) for use in pair)
    are_equal = np.array_equal(ours, theirs)
    both = theirs if are_equal else np.concatenate([ours, theirs], axis=1)
    name = pair[1].op.output.name
    root = _root(_information(both, name, dense.graph, context))
    return (root, root) if are_equal else (root[: ours.shape[1]], root[ours.shape[1] :])


def _information(matrix: Array, name: str, graph: Graph, context: Context) -> Array:
    """`matrix.T F matrix`, F the Fisher information of the logits `name`, as the mean over all positions of samples."""
    mean, outer, count = np.zeros(len(matrix)), np.zeros((matrix.shape[1],) * 2), 0
    single = matrix.astype(np.float32)
    samples = some_samples(graph, SAMPLES, context, "refit-blocks")
    with context.needed_runner("refit-blocks")(graph, outputs=[name]) as runner:
        for _, batch in samples.walk():
            beliefs = softmax(runner.run(batch.feeds)[name].reshape(-1, len(matrix)).astype(np.float32), axis=1)
            expected = beliefs @ single
            mean += beliefs.sum(axis=0, dtype=np.float64)
            outer += expected.T @ expected
            count += len(beliefs)
    return np.asarray((matrix.T * (mean / count)) @ matrix - outer / count)


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
