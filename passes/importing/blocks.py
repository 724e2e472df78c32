"""Weights of few bits with a scale for each block of a row (com.microsoft MatMulNBits): a DequantizeLinear in blocks.

TensorRT-RTX fuses INT4 codes with the product; INT8 codes, which hold what a zero point other than the middle leaves,
are dequantized by a kernel of their own, but take a quarter of the bytes of float32 all the same. Scales of int4 may
be negative; those of int8 may not, so that their codes change signs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Tensor, Value
from secateur.ir.tensor import unpack_bits
from secateur.passes.importing.grids import positive, spread
from secateur.passes.importing.site import Site, import_rules

Array: TypeAlias = NDArray[Any]

OPSET = 21
"""The first whose DequantizeLinear has blocks, and whose integers have 4 bits."""


@import_rules.register("com.microsoft::MatMulNBits")
def _matmul_n_bits(site: Site) -> str | None:
    """(A, B [N, blocks, bytes], scales, zero_points, g_idx, bias): A @ ((B - zero_point) * scale).T + bias."""
    packed, scales = site.constant(site.input(1)), site.constant(site.input(2))
    points = site.constant(site.input(3))
    if packed is None or scales is None or (site.input(3) is not None and points is None):
        return "its weight, scales or zero points are computed"
    if site.input(4) is not None:
        return "its rows are in another order in the groups (g_idx)"
    if site.op.attribute("bits", 4) not in (2, 4, 8) or packed.dtype is not DataType.UINT8:
        return f"its weight has {site.op.attribute('bits', 4)} bits, packed in {packed.dtype.short}"
    codes, steps, zeros = _unpacked(site, packed, scales, points)
    data = site.op.inputs[0]
    assert data is not None
    made = site.emit("MatMul", [data, _weight(site, codes, steps, zeros)])
    bias = site.input(5)
    site.replace(made if bias is None else site.emit("Add", [made, bias]))
    return None


def _unpacked(site: Site, packed: Tensor, scales: Tensor, points: Tensor | None) -> tuple[Array, Array, Array]:
    """Codes [K, N], scales [blocks, N] and zero points [blocks, N]."""
    op = site.op
    columns, rows, block, bits = (op.attribute(name) for name in ("N", "K", "block_size", "bits"))
    bits, blocks = bits or 4, -(-rows // block)
    flat = unpack_bits(packed.numpy().reshape(-1), columns * blocks * block, bits)
    codes = flat.reshape(columns, blocks * block)[:, :rows].astype(np.int16)
    steps = scales.numpy().reshape(columns, blocks)
    if points is None:
        zeros: Array = np.full((columns, blocks), 1 << (bits - 1), np.int16)
    elif points.dtype is DataType.UINT8:
        wide = -(-blocks * bits // 8) * 8 // bits
        zeros = unpack_bits(points.numpy().reshape(-1), columns * wide, bits).reshape(columns, wide)[:, :blocks]
        zeros = zeros.astype(np.int16)
    else:
        zeros = points.numpy().reshape(columns, blocks)
    return np.ascontiguousarray(codes.T), np.ascontiguousarray(steps.T), np.ascontiguousarray(zeros.T)


def _weight(site: Site, codes: Array, steps: Array, zeros: Array) -> Value:
    """Codes without zero points behind a DequantizeLinear; the numbers themselves where no integer holds them."""
    block, name = site.op.attribute("block_size"), "" if site.op.inputs[1] is None else site.op.inputs[1].name
    opset = site.part.root.header.opset() or 0
    spread_zeros = spread(zeros, codes.shape, 0, block)
    if zeros.dtype != np.int16 or opset < OPSET:
        step = spread(steps, codes.shape, 0, block).astype(np.float32)
        numbers = (codes.astype(np.float32) - spread_zeros.astype(np.float32)) * step
        return site.add(f"{name}_float", numbers.astype(steps.dtype))
    centred, kind = (codes - spread_zeros).astype(np.int32), np.dtype(ml_dtypes.int4)
    if centred.min(initial=0) < -8 or centred.max(initial=0) > 7:
        kind = np.dtype(np.int8)
        if (steps <= 0).any() or centred.min(initial=0) < -128 or centred.max(initial=0) > 127:
            if np.abs(centred).max(initial=0) > 127:
                site.desk.rounded[name] = None
            centred, steps = positive(centred, steps, 0, block)
    stored = [site.add(f"{name}_codes", centred.astype(np.int8).astype(kind)), site.add(f"{name}_scales", steps)]
    return site.emit("DequantizeLinear", stored, {"axis": 0, "block_size": block})
