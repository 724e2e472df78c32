"""Operators that TensorRT's parser adds to ONNX: data that is quantized in small blocks as the model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.dtypes import rounded, torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.quantized import spread
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor

_FP4, _FP8 = 6.0, 448.0
"""The largest numbers of E2M1 and E4M3."""
_EXPONENT = 8
"""Of the largest power of two in E4M3."""
_BIAS = 127


def _largest(x: Tensor, axis: int, block: int) -> Tensor:
    """The largest magnitude of each block along an axis."""
    parts = x.abs().split(block, axis)
    return torch.stack([part.amax(axis) for part in parts], axis)


@torch_rules.register("trt::TRT_FP4DynamicQuantize")
def _to_fp4(call: Call) -> tuple[Tensor, Tensor]:
    """Codes of E2M1, and scales of E4M3 that the scale of the whole tensor multiplies; 1 for blocks of zeros."""
    x, whole = call[0].to(torch.float32), call[1].to(torch.float32).reshape(())
    block = call.attribute("block_size", 16)
    axis = axis_of(call.attribute("axis", -1), x.dim())
    scale = rounded(_largest(x, axis, block) / (_FP4 * whole), DataType.FLOAT8E4M3FN)
    scale = torch.where(scale == 0, 1, scale)
    return rounded(x / (spread(scale, x, axis, block) * whole), DataType.FLOAT4E2M1), scale


@torch_rules.register("trt::TRT_MXFP8DynamicQuantize")
def _to_mxfp8(call: Call) -> tuple[Tensor, Tensor]:
    """Codes of E4M3, and a power of two for each block (OCP Microscaling Formats 1.0, section 6.3)."""
    x, block = call[0].to(torch.float32), call.attribute("block_size", 32)
    axis = axis_of(call.attribute("axis", -1), x.dim())
    largest = _largest(x, axis, block)
    exponent = torch.frexp(largest)[1] - 1 - _EXPONENT
    scale = torch.where(largest > 0, torch.exp2(exponent.to(torch.float32)), 1)
    return rounded(x / spread(scale, x, axis, block), DataType.FLOAT8E4M3FN), scale


@torch_rules.register("trt::TRT_MXFP8DequantizeLinear")
def _from_mxfp8(call: Call) -> Tensor:
    """A scale that is stored comes as the bytes of its exponents."""
    codes, scale, block = call[0], call[1], call.attribute("block_size", 32)
    if not scale.is_floating_point():
        scale = torch.exp2(scale.to(torch.float32) - _BIAS)
    made = codes.to(torch.float32) * spread(scale, codes, call.attribute("axis", -1), block)
    return made.to(torch_dtype(DataType(call.attribute("output_dtype", int(DataType.FLOAT32)))))
