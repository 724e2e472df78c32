"""A quantized model beside itself in floating point: the same values by the same names, nothing rounded between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses_of
from secateur.ir.runner import RunnerFactory
from secateur.ir.tensor import Tensor
from secateur.passes.layers.matrix import added_bias, as_matrices

AnyArray: TypeAlias = NDArray[Any]

_ROUNDING = frozenset({("", "QuantizeLinear"), ("", "DequantizeLinear")})
_SLOPE, _SHARE = 0.15, 0.9
"""A weight stands for another one if of its rows and columns so many have the other's size, but for so little."""


def is_rounded(known: Known, value: Value | None) -> bool:
    """True for what comes out of a DequantizeLinear."""
    maker = None if value is None else known.graph.producer(value)
    return maker is not None and maker.key == ("", "DequantizeLinear")


def float_twin(graph: Graph, known: Known, uses: Sequence[WeightUse], before: Mapping[Op, AnyArray]) -> Graph:
    """A copy of a graph whose activations are not rounded, and in which layers have the weights `before`.

    Args:
        graph: a graph with Q/DQ.
        known: of that graph.
        uses: its quantized layers.
        before: for ops of layers the float weight as the op reads it; the others keep what they are dequantized to.
    """
    twin = graph.clone()
    for use in uses:
        if use.op in before:
            op = _same(twin, use.op)
            weight = twin.add_constant(f"{use.weight.name}_float", Tensor(before[use.op]))
            twin.set_inputs(op, [weight if port == use.port else one for port, one in enumerate(op.inputs)])
    for op in list(twin.ops()):
        if op.key not in _ROUNDING or twin.constant(op.input(0)) is not None or _reads_codes(twin, op):
            continue
        # Value names stay: blocks are cut at them.
        made = op.output
        value, readers = op.inputs[0], twin.uses(made)
        copy = emit(twin, "Identity", [value], outputs=[made.name])
        for reader, port in readers:
            twin.set_inputs(reader, [copy.output if at == port else one for at, one in enumerate(reader.inputs)])
        if made in twin.outputs:
            twin.set_interface(outputs=[copy.output if one is made else one for one in twin.outputs])
        twin.remove(op)
        twin.rename(copy.output, made.name)
    return twin


def _reads_codes(graph: Graph, op: Op) -> bool:
    """True for a DequantizeLinear of codes that are an input of the model, or computed by something else."""
    maker = graph.producer(op.inputs[0]) if op.inputs[0] is not None else None
    return op.op_type == "DequantizeLinear" and (maker is None or maker.key not in {*_ROUNDING, ("", "Identity")})


def _same(graph: Graph, op: Op) -> Op:
    made = graph.producer(graph[op.output.name])
    assert made is not None
    return made


def float_weights(
    known: Known, original: Graph | None, uses: Sequence[WeightUse], factory: RunnerFactory
) -> tuple[dict[Op, AnyArray], dict[Op, str]]:
    """The weights that quantized layers were made from, as their ops read them, and why others are not known.

    The layer of the original is the one whose output has the same name. Where scales, normalisations or other weights
    have been folded into it since, it is another layer: then its rows or columns have other sizes, or its bias came.
    """
    found: dict[Op, AnyArray] = {}
    reasons: dict[Op, str] = {}
    for use in uses:
        before = None if original is None else _before(Known(original), use)
        if original is None:
            reasons[use.op] = "the model is not known as it was before it was quantized"
        elif before is None:
            reasons[use.op] = "the model had no such layer before it was quantized"
        elif (changed := _changed(known, use, before, factory)) is not None:
            reasons[use.op] = changed
        else:
            found[use.op] = before.tensor.numpy()
    return found, reasons


def _before(original: Known, use: WeightUse) -> WeightUse | None:
    value = original.graph.get(use.op.output.name)
    op = None if value is None else original.graph.producer(value)
    if op is None or op.key != use.op.key:
        return None
    found = [one for one in weight_uses_of(original, op) if one.port == use.port and not one.chain]
    return found[0] if found and found[0].tensor.dtype.is_float else None


def _changed(known: Known, use: WeightUse, before: WeightUse, factory: RunnerFactory) -> str | None:
    """Why a layer is not the one that it was made from, but for rounding; None where it is."""
    rounded = read_weight(known, use, factory)
    was = before.tensor.numpy()
    attributes = {name: one.value for name, one in use.op.attributes.items()}
    if rounded.shape != was.shape or attributes != {name: one.value for name, one in before.op.attributes.items()}:
        return "it has another shape than before it was quantized"
    one, other = (as_matrices(before, array.astype(np.float64)) for array in (was, rounded))
    if not all(_are_alike(one, other, side) for side in (1, 2)):
        return "its weight has been rescaled or fitted since"
    return _changed_bias(known.graph, use, before)


def _are_alike(was: AnyArray, now: AnyArray, side: int) -> bool:
    """Whether most rows (or columns) of matrices have the size that they had, as far as their own noise tells.

    By the slope of a regression of what they were on what they are, where they are not zero.
    """
    count, energy = (now != 0).sum(axis=side), (now**2).sum(axis=side)
    tell = count > 2
    if not tell.any():
        return True
    safe = np.where(energy > 0, energy, 1.0)
    slopes = (was * now).sum(axis=side) / safe
    left = np.where(now != 0, was - np.expand_dims(slopes, side) * now, 0.0)
    noise = np.sqrt((left**2).sum(axis=side) / np.maximum(count - 1, 1) / safe)
    return float(np.mean(np.abs(slopes - 1)[tell] < _SLOPE + 2 * noise[tell])) >= _SHARE


def _changed_bias(graph: Graph, use: WeightUse, before: WeightUse) -> str | None:
    now, then = (bias_constant(graph, use), None)
    if before.bias is not None:
        then = None if before.bias.const is None else before.bias.const.numpy()
    elif before.bias_port is None:
        return None
    if then is None or now is None:
        return None if now is None else "its bias came since"
    same = now.shape == then.shape and np.allclose(now, then, rtol=1e-3, atol=1e-6 * float(np.abs(then).max(initial=0)))
    return None if same else "its bias has changed since"


def bias_constant(graph: Graph, use: WeightUse) -> AnyArray | None:
    """The constant that a layer adds, by a port of its own or by an Add behind; None where there is none."""
    if use.bias is not None:
        tensor = graph.constant(use.bias)
        return None if tensor is None else tensor.numpy()
    behind = added_bias(graph, use)
    return None if behind is None else behind.array


def read_weight(known: Known, use: WeightUse, factory: RunnerFactory) -> AnyArray:
    """What a layer reads as its weight, in floating point."""
    value = use.op.inputs[use.port]
    assert value is not None
    with factory(known.graph, inputs=(), outputs=[value.name]) as runner:
        return np.asarray(runner.run({})[value.name])
