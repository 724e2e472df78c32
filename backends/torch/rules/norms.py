"""Normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, torch_rules, wide
from secateur.backends.torch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *[1] * (x.dim() - 2)) if x.dim() > 1 else parameter


@torch_rules.register("BatchNormalization")
def _batch(call: Call) -> Tensor | tuple[Tensor, ...]:
    x, scale, bias, mean, variance = (call[port] for port in range(5))
    epsilon, momentum = call.attribute("epsilon", 1e-5), call.attribute("momentum", 0.9)
    if call.opset < 9 and not call.attribute("spatial", 1):
        return (x - mean) / torch.sqrt(variance + epsilon) * scale + bias
    running = (mean, variance)
    training = bool(call.attribute("training_mode", 0))
    if training:
        dims = (0, *range(2, x.dim()))
        mean, variance = x.mean(dims), x.var(dims, unbiased=False)
    factor = scale / torch.sqrt(variance + epsilon)
    made = (x - _by_channel(mean, x)) * _by_channel(factor, x) + _by_channel(bias, x)
    made = made.to(x.dtype)
    if not training:
        return made
    moved = (old * momentum + new * (1 - momentum) for old, new in zip(running, (mean, variance), strict=True))
    return (made, *(one.to(old.dtype) for one, old in zip(moved, running, strict=True)))


@torch_rules.register("InstanceNormalization")
def _instance(call: Call) -> Tensor:
    x = call[0]
    dims = tuple(range(2, x.dim()))
    centred = x - x.mean(dims, keepdim=True)
    made = centred / torch.sqrt((centred * centred).mean(dims, keepdim=True) + call.attribute("epsilon", 1e-5))
    return made * _by_channel(call[1], x) + _by_channel(call[2], x)


def _groups(x: Tensor, groups: int, epsilon: float) -> Tensor:
    """Each group of channels of each sample to mean zero and variance one, in float32 at least."""
    parts = wide(x).reshape(x.shape[0], groups, -1)
    centred = parts - parts.mean(2, keepdim=True)
    return (centred / torch.sqrt((centred * centred).mean(2, keepdim=True) + epsilon)).reshape(x.shape)


@torch_rules.register("GroupNormalization")
def _group(call: Call) -> Tensor:
    """Before opset 21 scale and bias are those of the group, since then of the channel."""
    x, groups = call[0], call.attribute("num_groups")
    made = _groups(x, groups, call.attribute("epsilon", 1e-5)).to(x.dtype)
    scale, bias = call[1], call[2]
    if call.opset < 21:
        scale, bias = (one.repeat_interleave(x.shape[1] // groups) for one in (scale, bias))
    return made * _by_channel(scale, x) + _by_channel(bias, x)


@torch_rules.register("com.microsoft::GroupNorm")
def _group_contrib(call: Call) -> Tensor:
    return _channels_last_group(call, call[0])


@torch_rules.register("com.microsoft::SkipGroupNorm")
def _skip_group(call: Call) -> tuple[Tensor, Tensor]:
    skip, bias = call[3], call.get(4)
    total = call[0] + (skip if skip.dim() == 4 else skip[:, None, None, :])
    total = total if bias is None else total + bias
    return _channels_last_group(call, total), total


def _channels_last_group(call: Call, x: Tensor) -> Tensor:
    last = call.attribute("channels_last", 1)
    inner = x.permute(0, x.dim() - 1, *range(1, x.dim() - 1)) if last else x
    made = _groups(inner, call.attribute("groups"), call.attribute("epsilon", 1e-5))
    made = made * _by_channel(call[1], made) + _by_channel(call[2], made)
    made = functional.silu(made) if call.attribute("activation", 0) else made
    return (made.permute(0, *range(2, x.dim()), 1) if last else made).to(x.dtype)


def layer(x: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean zero and variance one over `axis` and all behind it, computed in float32 at least; mean, 1/deviation."""
    dims = tuple(range(axis_of(axis, x.dim()), x.dim()))
    mean = wide(x).mean(dims, keepdim=True)
    centred = wide(x) - mean
    inverse = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + epsilon)
    return centred * inverse, mean, inverse


def root_mean_square(x: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean square one over `axis` and all behind it, computed in float32 at least; and 1/root."""
    dims = tuple(range(axis_of(axis, x.dim()), x.dim()))
    inverse = torch.rsqrt(wide(x).square().mean(dims, keepdim=True) + epsilon)
    return wide(x) * inverse, inverse


@torch_rules.register("LayerNormalization")
def _layer(call: Call) -> tuple[Tensor, ...]:
    x, bias = call[0], call.get(2)
    made, mean, inverse = layer(x, call.attribute("axis", -1), call.attribute("epsilon", 1e-5))
    made = made.to(x.dtype) * call[1]
    return made if bias is None else made + bias, mean, inverse


@torch_rules.register("RMSNormalization", "SimplifiedLayerNormalization", "com.microsoft::SimplifiedLayerNormalization")
def _root_mean_square(call: Call) -> tuple[Tensor, ...]:
    x = call[0]
    made, inverse = root_mean_square(x, call.attribute("axis", -1), call.attribute("epsilon", 1e-5))
    return (made.to(call[1].dtype) * call[1]).to(call[1].dtype), inverse


@torch_rules.register("com.microsoft::SkipLayerNormalization")
def _skip_layer(call: Call) -> tuple[Tensor, ...]:
    beta, bias = call.get(3), call.get(4)
    total = call[0] + call[1]
    total = total if bias is None else total + bias
    made, mean, inverse = layer(total, -1, call.attribute("epsilon", 1e-12))
    made = made.to(total.dtype) * call[2]
    return made if beta is None else made + beta, mean, inverse, total


@torch_rules.register("com.microsoft::SkipSimplifiedLayerNormalization")
def _skip_root_mean_square(call: Call) -> tuple[Tensor, ...]:
    bias = call.get(3)
    total = call[0] + call[1]
    total = total if bias is None else total + bias
    made, inverse = root_mean_square(total, -1, call.attribute("epsilon", 1e-12))
    return made.to(total.dtype) * call[2], inverse, inverse, total


@torch_rules.register("com.microsoft::EmbedLayerNormalization")
def _embed_layer(call: Call) -> tuple[Tensor, ...]:
    """Words, positions and segments looked up, added and normalised; how many tokens each row's mask lets through."""
    words, segments, places = call[0].long(), call.get(1), call.get(8)
    positions = torch.arange(words.shape[1], device=words.device).expand(words.shape) if places is None else places
    total = call[2][words] + call[3][positions.long()]
    if segments is not None and call.get(4) is not None:
        total = total + call[4][segments.long()]
    made, _, _ = layer(total, -1, call.attribute("epsilon", 1e-12))
    made = made.to(total.dtype) * call[5] + call[6]
    mask = call.get(7)
    counts = torch.zeros(words.shape[0], dtype=torch.int32) if mask is None else mask.sum(1).to(torch.int32)
    return made, counts, total


@torch_rules.register("LpNormalization")
def _lp(call: Call) -> Tensor:
    x, axis = call[0], call.attribute("axis", -1)
    norm = torch.linalg.vector_norm(x, call.attribute("p", 2), axis, keepdim=True)
    return torch.where(norm == 0, 0, x / torch.where(norm == 0, 1, norm))


@torch_rules.register("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Tensor:
    x = call[0]
    dims = tuple(call.attribute("axes") or (0, 2, 3))
    centred = x - x.mean(dims, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(dims, keepdim=True)) + 1e-9)


@torch_rules.register("LRN")
def _local_response(call: Call) -> Tensor:
    x, size = call[0], call.attribute("size")
    squares = functional.pad(x * x, (0, 0) * (x.dim() - 2) + ((size - 1) // 2, size // 2))
    total = sum(squares.narrow(1, start, x.shape[1]) for start in range(size))
    alpha, beta, bias = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75), call.attribute("bias", 1.0)
    return x / (bias + alpha / size * total) ** beta
