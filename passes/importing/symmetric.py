"""Zero points go: what was quantized around one is quantized to int8 around 0 instead, as TensorRT wants it.

An activation gets the step at which 127 is the larger end of the range that its codes span; the step grows by up to
2.008, so one bit of eight is lost at worst. Where the range ended at zero, a Relu is put before it, unless there is
one. A weight keeps its scale where its codes minus the zero point are integers of as many bits, and is rounded anew
where they are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.grids import symmetric_scale
from secateur.ir import DataType, Graph, Op, Tensor, TensorType, Value
from secateur.ir.sparsity_scheme import KEY
from secateur.passes.context import Context
from secateur.passes.importing.constants import store_codes
from secateur.passes.importing.grids import positive, spread
from secateur.passes.importing.saturation import CODES, Ends, clipped, ends_of, hides_activation
from secateur.passes.rewriter import remove_unread


@dataclass(frozen=True)
class _Shared:
    """A quantized tensor: its codes, who makes them (None for a constant), who reads them, and one grid for all."""

    codes: Value
    maker: Op | None
    readers: tuple[Op, ...]
    scale: Tensor
    zero: NDArray[np.int32]
    dtype: DataType

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number that its codes stand for, where it has one scale."""
        return ends_of(float(self.scale.numpy().astype(np.float64).item()), int(self.zero.reshape(-1)[0]), self.dtype)

    @property
    def like(self) -> Op:
        """An op that makes or reads it."""
        return self.maker or self.readers[0]


def make_symmetric(part: Graph, context: Context) -> int:
    """Rewrites all quantized tensors of a body that have zero points, or types that TensorRT does not take.

    Returns how many; notes say which were left, and why.
    """
    done = 0
    for op in part.ops():
        if op.key == ("", "QuantizeLinear") and part.constant(op.input(0)) is not None and _is_asymmetric(part, op):
            done += context.allow("store", op) and store_codes(part, op)
    tensors = list(_tensors(part, context))
    ends = {one.codes: one.ends for one in tensors if one.scale.size == 1}
    for shared in tensors:
        if _is_taken(shared):
            continue
        if not context.allow("symmetric", shared.like):
            continue
        reason = _weight(part, shared, context) if shared.maker is None else _activation(part, shared, ends, context)
        if reason is None:
            done += 1
        else:
            context.note(f"{shared.codes.name} keeps its zero point: {reason}")
    return done


def _is_asymmetric(part: Graph, op: Op) -> bool:
    zero = part.constant(op.input(2))
    return zero is not None and not zero.dtype.is_float and (bool(zero.numpy().any()) or zero.dtype is DataType.UINT8)


def _is_taken(shared: _Shared) -> bool:
    """Whether TensorRT takes a tensor as it is: of int4, negative scales too."""
    if shared.zero.any() or shared.dtype not in (DataType.INT8, DataType.INT4):
        return False
    return shared.dtype is DataType.INT4 or bool((shared.scale.numpy() > 0).all())


def _tensors(part: Graph, context: Context) -> Iterator[_Shared]:
    for value in list(part.values()):
        readers, maker = tuple(part.consumers(value)), part.producer(value)
        quantized = maker is not None and maker.key == ("", "QuantizeLinear")
        constant = part.is_constant(value) and any(user.key == ("", "DequantizeLinear") for user in readers)
        constant = constant and all(user.input(0) is value for user in readers)
        if not (quantized or constant):
            continue
        shared = _shared(part, value, maker if quantized else None, readers)
        if isinstance(shared, str):
            context.note(f"{value.name} stays as it is: {shared}")
        elif shared is not None:
            yield shared


def _shared(part: Graph, value: Value, maker: Op | None, readers: tuple[Op, ...]) -> _Shared | str | None:
    """The tensor; the reason why it must be left alone; None where there is nothing to be done about it."""
    ops = [op for op in (maker, *readers) if op is not None]
    grids = [(part.constant(op.input(1)), part.constant(op.input(2)), op.input(2)) for op in ops]
    points = [zero for _, zero, _ in grids if zero is not None]
    if value.const is not None:
        dtype = value.const.dtype
    elif points:
        dtype = points[0].dtype
    else:
        dtype = DataType(maker.attribute("output_dtype", 0)) if maker is not None else DataType.UNDEFINED
        dtype = dtype or DataType.UINT8
    if dtype.is_float or dtype is DataType.INT32:
        return None
    if dtype not in CODES or dtype.bits > 8:
        return f"{dtype.short} has more steps than int8"
    if any(op.key != ("", "DequantizeLinear") for op in readers) or value in part.outputs:
        return "its codes are read by something else than a DequantizeLinear"
    scale = grids[0][0]
    if scale is None or any(given is not None and zero is None for _, zero, given in grids):
        return "its scale or zero point is computed"
    if any(one is None or not np.array_equal(one.numpy(), scale.numpy()) for one, _, _ in grids):
        return "it is read with another scale than it is made with"
    zeros = [np.zeros(scale.shape, np.int32) if zero is None else zero.numpy().astype(np.int32) for _, zero, _ in grids]
    if any(not np.array_equal(zero, zeros[0]) for zero in zeros):
        return "it is read with another zero point than it is made with"
    return _Shared(value, maker, readers, scale, zeros[0], dtype)


def _activation(part: Graph, shared: _Shared, ends: Mapping[Value, Ends], context: Context) -> str | None:
    maker, real = shared.maker, shared.maker.input(0) if shared.maker is not None else None
    assert maker is not None
    assert real is not None
    if shared.scale.size != 1 or maker.attribute("block_size", 0):
        return "it is an activation with several scales"
    low, high = shared.ends
    kind, step = shared.scale.dtype.numpy, float(shared.scale.numpy().astype(np.float64).item())
    # Around 128, uint8 is int8 itself.
    exact = (low, high) == (-128 * step, 127 * step)
    scale = shared.scale if exact else Tensor(np.asarray(symmetric_scale(max(-low, high), kind)))
    if not exact and hides_activation(part, real, (low, high), ends):
        real = clipped(part, maker, real, (0.0, None) if low == 0 else (None, 0.0), kind)
    _renew(part, shared, real, scale, np.dtype(np.int8))
    point, widened = int(shared.zero.reshape(-1)[0]), float(scale.numpy().astype(np.float64).item()) / step
    context.row(value=shared.codes.name, was=shared.dtype.short, zero_point=point, step=widened, **_rounding(not exact))
    return None


def _rounding(rounded: bool) -> dict[str, object]:
    return {"effect": "rounded" if rounded else "exact"}


def _weight(part: Graph, shared: _Shared, context: Context) -> str | None:
    op, tensor = shared.like, part.constant(shared.codes)
    if tensor is None:
        return "a caller may override it"
    axis, block = op.attribute("axis", 1), op.attribute("block_size", 0)
    codes = np.asarray(tensor.numpy().astype(np.int32) - spread(shared.zero, tensor.shape, axis, block))
    least, most = int(codes.min(initial=0)), int(codes.max(initial=0))
    scale, kind, exact = shared.scale, np.dtype(np.int8), True
    if least >= -8 and most <= 7 and tensor.dtype.bits <= 4:
        kind = np.dtype(ml_dtypes.int4)
    elif least < -128 or most > 127 or (scale.numpy() <= 0).any():
        exact = max(-least, most) <= 127
        codes, steps = positive(codes, scale.numpy(), axis, block)
        scale = Tensor(np.asarray(steps))
    value = part.add_constant(shared.codes.name, Tensor(np.asarray(codes).astype(np.int8).astype(kind)))
    value.metadata = dict(shared.codes.metadata) if KEY in shared.codes.metadata else value.metadata
    _renew(part, replace(shared, codes=value), None, scale, kind)
    remove_unread(part, shared.codes)
    point = int(shared.zero.reshape(-1)[0]) if shared.zero.size else 0
    context.row(value=shared.codes.name, was=shared.dtype.short, zero_point=point, **_rounding(not exact))
    return None


def _renew(part: Graph, shared: _Shared, real: Value | None, scale: Tensor, kind: np.dtype[Any]) -> None:
    """All ops of a tensor with a scale and zero points of 0; `real` is what its maker quantizes."""
    name = shared.codes.name
    old = {
        value for op in (shared.maker, *shared.readers) if op is not None for value in op.inputs if value is not None
    }
    # An old zero point could not stay: it says the element type.
    zero = part.add_constant(f"{name}_zero_point", Tensor(np.zeros(scale.shape, np.int8).astype(kind)))
    step = part.add_constant(f"{name}_scale", scale)
    if shared.maker is not None:
        part.set_inputs(shared.maker, [real, step, zero])
        if shared.maker.attribute("output_dtype", 0):
            part.set_attribute(shared.maker, "output_dtype", int(zero.const.dtype) if zero.const else 0)
        if isinstance(shared.codes.type, TensorType):
            shared.codes.type = replace(shared.codes.type, dtype=DataType.of(kind))
    for reader in shared.readers:
        part.set_inputs(reader, [shared.codes, step, zero])
    for value in old:
        remove_unread(part, value)
