"""Products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.activations import activation

if TYPE_CHECKING:
    from torch import Tensor


def product(left: Tensor, right: Tensor) -> Tensor:
    """A product of matrices; of whole numbers too on a GPU, where torch has none: float64 holds them up to 2^53."""
    if left.is_cuda and not left.is_floating_point() and not left.is_complex():
        return torch.matmul(left.double(), right.double()).to(left.dtype)
    return torch.matmul(left, right)


@torch_rules.register("MatMul")
def _matmul(call: Call) -> Tensor:
    return product(call[0], call[1])


@torch_rules.register("Gemm")
def _gemm(call: Call) -> Tensor:
    left = call[0].transpose(0, 1) if call.attribute("transA", 0) else call[0]
    right = call[1].transpose(0, 1) if call.attribute("transB", 0) else call[1]
    alpha, beta, bias = call.attribute("alpha", 1.0), call.attribute("beta", 1.0), call.get(2)
    made = product(left, right)
    made = made if alpha == 1 else (alpha * made).to(made.dtype)
    if bias is None:
        return made
    return made + (bias if beta == 1 else (beta * bias).to(made.dtype))


@torch_rules.register("com.microsoft::FusedGemm")
def _fused_gemm(call: Call) -> Tensor:
    name = call.attribute("activation", "")
    return activation(name, call.attribute("activation_alpha"), call.attribute("activation_beta"))(_gemm(call))


@torch_rules.register("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def _fused_matmul(call: Call) -> Tensor:
    left = _arranged(call[0], call.attribute("transA", 0), call.attribute("transBatchA", 0))
    right = _arranged(call[1], call.attribute("transB", 0), call.attribute("transBatchB", 0))
    made = torch.matmul(left, right)
    return made * call.attribute("alpha", 1.0)


def _arranged(x: Tensor, swapped: int, batch_inside: int) -> Tensor:
    """With `batch_inside` the axis before the last one comes first in storage: [m, batch.., k]."""
    if batch_inside and x.dim() > 2:
        x = x.permute(*range(1, x.dim() - 1), 0, x.dim() - 1)
    return x.transpose(-1, -2) if swapped and x.dim() > 1 else x


@torch_rules.register("com.microsoft::GemmFastGelu")
def _gemm_fast_gelu(call: Call) -> Tensor:
    bias = call.get(2)
    made = call[0] @ call[1]
    return torch.nn.functional.gelu(made if bias is None else made + bias, approximate="tanh")


@torch_rules.register("Einsum")
def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation").replace(" ", ""), *call.tensors())


@torch_rules.register("Det")
def _determinant(call: Call) -> Tensor:
    return torch.linalg.det(call[0])


@torch_rules.register("com.microsoft::Inverse")
def _inverse(call: Call) -> Tensor:
    return torch.linalg.inv(call[0])
