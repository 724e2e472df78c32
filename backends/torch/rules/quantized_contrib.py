"""onnxruntime's operators on quantized numbers (domain com.microsoft): decoded, computed, and quantized again.

Each number is one of three inputs in a row: codes, scale, zero point. onnxruntime's kernels round at other places, so
its codes may be one off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.dtypes import torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.pools import average_pool
from secateur.backends.torch.rules.quantized import quantize

if TYPE_CHECKING:
    from torch import Tensor

Real: TypeAlias = "Callable[[Call, Tensor], Tensor]"


def _decoded(call: Call, port: int) -> Tensor:
    """The real numbers behind codes at a port, with the scale and the zero point behind them."""
    scale, zero = call[port + 1], call.get(port + 2)
    wide = call[port].to(torch.float32)
    return (wide if zero is None else wide - zero.to(torch.float32)) * scale


def _coded(call: Call, x: Tensor, port: int) -> Tensor:
    """Codes of real numbers, by the scale at a port and the zero point behind it, which has the type of the first."""
    zero = call.get(port + 1)
    kind = call.kind(0) if zero is None else call.kind(port + 1)
    return quantize(call, x, call[port], zero, kind)


def _one(op: str, function: Real) -> None:
    """An operator of one quantized input: X and its scale and zero point, those of Y."""
    torch_rules.add(f"com.microsoft::{op}", lambda call: _coded(call, function(call, _decoded(call, 0)), 3))


def _pooled(call: Call, x: Tensor, pool: Real) -> Tensor:
    if not call.attribute("channels_last", 0):
        return pool(call, x)
    made = pool(call, x.movedim(-1, 1))
    return made.movedim(1, -1)


_one("QLinearSigmoid", lambda call, x: torch.sigmoid(x))
_one("QLinearLeakyRelu", lambda call, x: torch.where(x < 0, x * call.attribute("alpha", 0.01), x))
_one("QLinearSoftmax", lambda call, x: torch.softmax(x, call.attribute("axis", -1)))
_one("QLinearAveragePool", lambda call, x: _pooled(call, x, average_pool))
_one(
    "QLinearGlobalAveragePool",
    lambda call, x: _pooled(call, x, lambda _, inner: inner.mean(tuple(range(2, inner.dim())), keepdim=True)),
)


@torch_rules.register("com.microsoft::QLinearAdd")
def _add(call: Call) -> Tensor:
    return _coded(call, _decoded(call, 0) + _decoded(call, 3), 6)


@torch_rules.register("com.microsoft::QLinearMul")
def _multiply(call: Call) -> Tensor:
    return _coded(call, _decoded(call, 0) * _decoded(call, 3), 6)


@torch_rules.register("com.microsoft::QLinearWhere")
def _where(call: Call) -> Tensor:
    return _coded(call, torch.where(call[0], _decoded(call, 1), _decoded(call, 4)), 7)


@torch_rules.register("com.microsoft::QLinearConcat")
def _concat(call: Call) -> Tensor:
    """The scale and zero point of the output come first."""
    parts = [_decoded(call, port) for port in range(2, len(call), 3)]
    return quantize(call, torch.cat(parts, call.attribute("axis")), call[0], call[1], call.kind(1))


@torch_rules.register("com.microsoft::QGemm")
def _gemm(call: Call) -> Tensor:
    """The bias is counted in units of both scales; without a scale for the output, real numbers come out."""
    left, right, bias = _decoded(call, 0).double(), _decoded(call, 3).double(), call.get(6)
    left = left.transpose(0, 1) if call.attribute("transA", 0) else left
    right = right.transpose(0, 1) if call.attribute("transB", 0) else right
    made = left @ right
    if bias is not None:
        made = made + bias * (call[1] * call[4]).double()
    made = made * call.attribute("alpha", 1.0)
    if call.get(7) is None:
        return made.to(torch_dtype(call.kind(1)))
    return _coded(call, made.to(torch.float32), 7)
