"""Weights of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from secateur.ir.node import Op, Value
from secateur.ir.rules.known import Known
from secateur.ir.rules.weight_reading import Reading, reading
from secateur.ir.rules.weight_use import WeightUse, weight_rules

_register = weight_rules.register


@_register("Conv")
def _conv(known: Known, op: Op) -> Iterator[WeightUse]:
    return _convolution(known, op, 1, 2)


@_register("ConvTranspose")
def _conv_transpose(known: Known, op: Op) -> Iterator[WeightUse]:
    return _convolution(known, op, 1, 2)


@_register("com.microsoft::FusedConv")
def _fused_conv(known: Known, op: Op) -> Iterator[WeightUse]:
    """An activation follows, and a value may be added before it."""
    return (replace(use, targets="data") for use in _convolution(known, op, 1, 2))


@_register("ConvInteger")
def _conv_integer(known: Known, op: Op) -> Iterator[WeightUse]:
    return (replace(use, targets=None) for use in _convolution(known, op, 1, None))


@_register("QLinearConv")
def _quantized_conv(known: Known, op: Op) -> Iterator[WeightUse]:
    return (replace(use, targets=None) for use in _convolution(known, op, 3, None))


def _convolution(known: Known, op: Op, port: int, bias_port: int | None) -> Iterator[WeightUse]:
    found, data = reading(known, op.input(port)), op.input(0)
    if found is None or data is None or len(found.shape) < 3:
        return
    sides = (1, 0) if op.op_type == "ConvTranspose" else (0, 1)
    produced, contracted = (found.one(side) for side in sides)
    if produced is None or contracted is None:
        return
    taps = found.all(range(2, len(found.shape)))
    yield WeightUse(
        op,
        port,
        found.value,
        found.tensor,
        data,
        produced,
        contracted,
        op.attribute("group", 1),
        1,
        1,
        bias_port,
        rows=(produced,),
        taps=taps,
        chain=found.chain,
    )


@_register("Gemm")
def _gemm(known: Known, op: Op) -> Iterator[WeightUse]:
    found, data = reading(known, op.input(1)), op.input(0)
    if found is None or data is None or len(found.shape) != 2:
        return
    transposed = bool(op.attribute("transB", 0))
    data_axis = 0 if op.attribute("transA", 0) else 1
    if (use := _matrix(op, 1, data, found, (1 - transposed, int(transposed), data_axis, 1))) is not None:
        yield replace(use, bias_port=2)


@_register("com.microsoft::FusedGemm")
def _fused_gemm(known: Known, op: Op) -> Iterator[WeightUse]:
    """An activation follows."""
    return (replace(use, targets="data") for use in _gemm(known, op))


@_register("MatMul")
def _matmul(known: Known, op: Op) -> Iterator[WeightUse]:
    return _product(known, op, (0, 1), (False, False))


@_register("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def _fused_matmul(known: Known, op: Op) -> Iterator[WeightUse]:
    """The last two axes of either side may be swapped before."""
    if op.attribute("transBatchA", 0) or op.attribute("transBatchB", 0):
        return iter(())
    return _product(known, op, (0, 1), (bool(op.attribute("transA", 0)), bool(op.attribute("transB", 0))))


@_register("MatMulInteger")
def _matmul_integer(known: Known, op: Op) -> Iterator[WeightUse]:
    return (replace(use, targets=None) for use in _product(known, op, (0, 1), (False, False)))


@_register("QLinearMatMul")
def _quantized_matmul(known: Known, op: Op) -> Iterator[WeightUse]:
    return (replace(use, targets=None) for use in _product(known, op, (0, 3), (False, False)))


def _product(known: Known, op: Op, ports: tuple[int, int], swapped: tuple[bool, bool]) -> Iterator[WeightUse]:
    """A weight on the right of a product, else one on the left. `ports`: left and right; `swapped`: their last axes."""
    for side in (1, 0):
        found, data = reading(known, op.input(ports[side])), op.input(ports[1 - side])
        if found is None or data is None or len(found.shape) < 2:
            continue
        rank = known.rank(data)
        # On the right of data of any rank, the last axis is summed over; on the left, a vector would be another case.
        if rank is None and (side == 0 or swapped[0]):
            continue
        if rank is not None and rank < 2:
            continue
        wide = len(found.shape)
        inner, outer = wide - 2 + (side == 0), wide - 2 + (side == 1)
        if swapped[side]:
            inner, outer = outer, inner
        summed = -1 if (side == 1) != swapped[1 - side] else -2
        given = -1 if side == 1 else -2
        places = (summed, given) if rank is None else (rank + summed, max(rank, wide) + given)
        use = _matrix(op, ports[side], data, found, (outer, inner, *places))
        if use is not None:
            yield _stacked(use, found, rank)
        return


def _matrix(op: Op, port: int, data: Value, found: Reading, axes: tuple[int, int, int, int]) -> WeightUse | None:
    """One use. `axes`: the produced and the summed one, as the op sees the weight; those of the data and the output."""
    contracted, rows = found.one(axes[1]), found.all([axes[0]])
    if contracted is None or not rows:
        return None
    return WeightUse(
        op,
        port,
        found.value,
        found.tensor,
        data,
        rows[0],
        contracted,
        1,
        *axes[2:],
        None,
        rows=rows,
        chain=found.chain,
    )


def _stacked(use: WeightUse, found: Reading, rank: int | None) -> WeightUse:
    """The use where matrices are stacked along the axes before the last two; `rank` is that of the data, if known."""
    wide = len(found.shape)
    stack = [axis for axis in range(wide - 2) if found.shape[axis] > 1]
    if not stack:
        return use
    use = replace(use, batch=found.all(stack))
    if len(stack) > 1:
        return replace(use, targets=None)
    behind = wide - stack[0]
    if rank is None:
        return replace(use, data_batch=-behind, output_batch=-behind)
    data_batch = rank - behind if rank >= behind else None
    return replace(use, data_batch=data_batch, output_batch=max(rank, wide) - behind)
