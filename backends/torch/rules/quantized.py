"""Numbers on a grid: quantization and its inverse, and products of what is quantized."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.dtypes import limits, rounded, torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.convolutions import convolve
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor


def spread(parameter: Tensor, x: Tensor, axis: int, block: int = 0) -> Tensor:
    """Scales or zero points in the shape of what they belong to: one for all, for each index of an axis, or a block."""
    if parameter.numel() == 1 and not block:
        return parameter.reshape(())
    axis = axis_of(axis, x.dim())
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return parameter.reshape([-1 if one == axis else 1 for one in range(x.dim())])


def _round(x: Tensor, straight_through: bool) -> Tensor:
    """To the nearest, ties to even; where asked for, with the gradient of the identity (Bengio et al., 2013)."""
    nearest = torch.round(x)
    return x + (nearest - x).detach() if straight_through else nearest


def quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None, kind: DataType) -> Tensor:
    """x / scale + zero, rounded and cut off at the range of a type."""
    divided = x / scale
    if kind.is_float:
        made = rounded(divided, kind, saturate=bool(call.attribute("saturate", 1)))
        return divided + (made - divided).detach() if call.straight_through else made
    low, high = limits(kind)
    made = _round(divided, call.straight_through)
    made = (made if zero is None else made + zero.to(made.dtype)).clamp(low, high)
    return made if call.straight_through else made.to(torch_dtype(kind))


@torch_rules.register("QuantizeLinear", "com.microsoft::QuantizeLinear")
def _quantize(call: Call) -> Tensor:
    x, axis, block = call[0], call.attribute("axis", 1), call.attribute("block_size", 0)
    wanted = call.attribute("output_dtype", 0)
    zero = call.get(2)
    kind = call.kind(2) if zero is not None else DataType(wanted) if wanted else DataType.UINT8
    scale = call[1].to(x.dtype if x.is_floating_point() else call[1].dtype)
    return quantize(
        call,
        x.to(scale.dtype),
        spread(scale, x, axis, block),
        None if zero is None else spread(zero, x, axis, block),
        kind,
    )


@torch_rules.register("DequantizeLinear", "com.microsoft::DequantizeLinear")
def _dequantize(call: Call) -> Tensor:
    x, axis, block = call[0], call.attribute("axis", 1), call.attribute("block_size", 0)
    scale, zero = call[1], call.get(2)
    wanted = call.attribute("output_dtype", 0)
    target = torch_dtype(DataType(wanted)) if wanted else scale.dtype
    wide = x if x.is_floating_point() else x.to(torch.int32)
    if zero is not None and not call.kind(2).is_float:
        wide = wide - spread(zero.to(wide.dtype), x, axis, block)
    return (wide.to(scale.dtype) * spread(scale, x, axis, block)).to(target)


@torch_rules.register("DynamicQuantizeLinear")
def _quantize_dynamically(call: Call) -> tuple[Tensor, ...]:
    """The range of the tensor, zero included, onto 0..255."""
    x = call[0]
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, 1, scale)
    zero = torch.round((0 - low) / safe).clamp(0, 255).to(torch.uint8)
    return quantize(call, x, safe, zero, DataType.UINT8), scale, zero


def _centred(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Integers less their zero point, in float64, which holds all their sums exactly."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    offset = zero.to(torch.float64)
    if offset.numel() == 1:
        return wide - offset.reshape(())
    if offset.dim() > 1:
        return wide - offset
    return wide - spread(offset, x, axis)


@torch_rules.register("MatMulInteger")
def _matmul_integer(call: Call) -> Tensor:
    left, right = _centred(call[0], call.get(2), -2), _centred(call[1], call.get(3), -1)
    return torch.matmul(left, right).to(torch.int32)


@torch_rules.register("com.microsoft::MatMulIntegerToFloat")
def _matmul_integer_to_float(call: Call) -> Tensor:
    left, right = _centred(call[0], call.get(4), -2), _centred(call[1], call.get(5), -1)
    bias = call.get(6)
    made = torch.matmul(left, right) * call[2] * call[3]
    return (made if bias is None else made + bias).to(call[2].dtype)


@torch_rules.register("com.microsoft::DynamicQuantizeMatMul")
def _matmul_quantized_dynamically(call: Call) -> Tensor:
    codes, scale, zero = _quantize_dynamically(call)
    bias = call.get(4)
    made = torch.matmul(_centred(codes, zero, -2), _centred(call[1], call.get(3), -1)) * scale * call[2]
    return (made if bias is None else made + bias).to(scale.dtype)


@torch_rules.register("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Tensor:
    left, right = _centred(call[0], call.get(2), -2), _centred(call[3], call.get(5), -1)
    made = torch.matmul(_scaled(left, call[1], -2), _scaled(right, call[4], -1))
    return quantize(call, made, call[6].to(made.dtype), call[7], call.kind(7))


def _scaled(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    return x * (scale.to(x.dtype) if scale.dim() > 1 else spread(scale.to(x.dtype), x, axis))


@torch_rules.register("ConvInteger")
def _conv_integer(call: Call) -> Tensor:
    return convolve(call, _centred(call[0], call.get(2), 1), _centred(call[1], call.get(3), 0), None).to(torch.int32)


@torch_rules.register("QLinearConv")
def _qlinear_conv(call: Call) -> Tensor:
    x, weight = _centred(call[0], call.get(2), 1), _centred(call[3], call.get(5), 0)
    bias = call.get(8)
    made = convolve(call, x, weight, None if bias is None else bias.to(torch.float64))
    made = made * call[1].to(made.dtype) * spread(call[4].to(made.dtype), made, 1)
    return quantize(call, made, call[6].to(made.dtype), call[7], call.kind(7))


# ---- weights packed by onnxruntime ---------------------------------------------------------------------------------


def unpacked(codes: Tensor, bits: int) -> Tensor:
    """The numbers of `bits` bits in bytes, the first in the lowest bits, along the last axis."""
    if bits == 8:
        return codes
    shifts = torch.arange(0, 8, bits, device=codes.device, dtype=torch.uint8)
    return ((codes.unsqueeze(-1) >> shifts) & (2**bits - 1)).flatten(-2)


@torch_rules.register("com.microsoft::MatMulNBits")
def _matmul_bits(call: Call) -> Tensor:
    """Weights [n, blocks, packed], a scale for each block, zero points packed or as numbers (the middle otherwise)."""
    x, bits, block = call[0], call.attribute("bits", 4), call.attribute("block_size")
    rows, columns = call.attribute("N"), call.attribute("K")
    blocks = math.ceil(columns / block)
    codes = unpacked(call[1], bits).reshape(rows, blocks, block)
    scales, zeros, groups, bias = call[2].reshape(rows, blocks, 1), call.get(3), call.get(4), call.get(5)
    if zeros is None:
        middle: Tensor | int = 2 ** (bits - 1)
    elif zeros.dtype == torch.uint8:
        middle = unpacked(zeros.reshape(rows, -1), bits)[:, :blocks].unsqueeze(-1).to(scales.dtype)
    else:
        middle = zeros.reshape(rows, blocks, 1)
    if groups is not None:
        raise call.refuse("with an index of groups")
    weight = ((codes.to(scales.dtype) - middle) * scales).reshape(rows, -1)[:, :columns]
    made = x @ weight.to(x.dtype).transpose(0, 1)
    return made if bias is None else made + bias
