"""Mixtures of experts, as onnxruntime has them: every token goes to the `k` experts that its router likes best."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from secateur.backends.torch.call import Call, torch_rules, wide
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.activations import activation
from secateur.backends.torch.rules.quantized import unpacked

if TYPE_CHECKING:
    from torch import Tensor

Bank: TypeAlias = "Callable[[int], tuple[Tensor, Tensor | None]]"
"""The map of an expert: weight [out, in] and bias."""


@torch_rules.register("com.microsoft::MoE")
def _experts(call: Call) -> Tensor:
    def bank(port: int) -> Bank | None:
        weight, bias = call.get(port), call.get(port + 1)
        return None if weight is None else lambda one: (weight[one], None if bias is None else bias[one])

    return _mixture(call, (bank(2), bank(4), bank(6)))


@torch_rules.register("com.microsoft::QMoE")
def _quantized_experts(call: Call) -> Tensor:
    bits, block = call.attribute("expert_weight_bits", 4), call.attribute("block_size", 0)

    def bank(port: int, zeros: int) -> Bank | None:
        codes, scales, bias, offsets = call.get(port), call.get(port + 1), call.get(port + 2), call.get(zeros)
        if codes is None or scales is None:
            return None

        def expert(one: int) -> tuple[Tensor, Tensor | None]:
            numbers = unpacked(codes[one], bits).to(scales.dtype)
            middle = torch.full_like(scales[one], 2 ** (bits - 1))
            if offsets is not None:
                middle = unpacked(offsets[one], bits)[..., : max(1, middle.shape[-1])].reshape(middle.shape)
            weight = (numbers - _wide(middle, numbers, block)) * _wide(scales[one], numbers, block)
            return weight, None if bias is None else bias[one]

        return expert

    return _mixture(call, (bank(2, 11), bank(5, 12), bank(8, 13)))


def _wide(parameter: Tensor, like: Tensor, block: int) -> Tensor:
    if not block:
        return parameter.reshape(-1, 1).to(like.dtype)
    return parameter.repeat_interleave(block, -1)[:, : like.shape[-1]].to(like.dtype)


def _mixture(call: Call, banks: tuple[Bank | None, Bank | None, Bank | None]) -> Tensor:
    first, second, third = banks
    if first is None or second is None:
        raise call.refuse("without the weights of its experts")
    x = call[0]
    tokens = x.reshape(-1, x.shape[-1])
    chances = torch.softmax(wide(call[1].reshape(tokens.shape[0], -1)), -1)
    share, chosen = chances.topk(call.attribute("k", 1), -1)
    if call.attribute("normalize_routing_weights", 0):
        share = share / share.sum(-1, keepdim=True)
    made = torch.zeros_like(tokens)
    for expert in range(chances.shape[-1]):
        weight = (share * (chosen == expert)).sum(-1)
        rows = torch.nonzero((chosen == expert).any(-1)).reshape(-1)
        if rows.numel():
            result = _expert(
                call, tokens[rows], first(expert), second(expert), None if third is None else third(expert)
            )
            made = made.index_add(0, rows, result * weight[rows, None].to(result.dtype))
    return made.reshape(x.shape)


def _linear(x: Tensor, parameters: tuple[Tensor, Tensor | None]) -> Tensor:
    weight, bias = parameters
    return torch.nn.functional.linear(x, weight, bias)


def _expert(
    call: Call,
    x: Tensor,
    first: tuple[Tensor, Tensor | None],
    second: tuple[Tensor, Tensor | None],
    third: tuple[Tensor, Tensor | None] | None,
) -> Tensor:
    inner = _linear(x, first)
    kind, fusion = call.attribute("activation_type", "relu"), call.attribute("swiglu_fusion", 0)
    if kind == "swiglu":
        if fusion == 1:
            gate, value = inner[..., 0::2], inner[..., 1::2]
        else:
            gate, value = inner.chunk(2, -1) if third is None else (inner, _linear(x, third))
        bound = call.attribute("swiglu_limit")
        if bound is not None:
            gate, value = gate.clamp(max=bound), value.clamp(-bound, bound)
        swish = gate * torch.sigmoid(call.attribute("activation_alpha", 1.0) * gate)
        return _linear(swish * (value + call.attribute("activation_beta", 0.0)), second)
    made = activation(kind)(inner)
    return _linear(made if third is None else made * _linear(x, third), second)
