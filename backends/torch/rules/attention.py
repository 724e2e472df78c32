"""Attention of ONNX (opset 23 on), rotary positions, and linear attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules, wide
from secateur.backends.torch.dtypes import torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor


def by_head(x: Tensor, heads: int) -> Tensor:
    """[batch, positions, heads * width] to [batch, heads, positions, width]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def flat(x: Tensor) -> Tensor:
    """The inverse of `by_head`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def shared(x: Tensor, heads: int) -> Tensor:
    """Each head of keys or values as often as query heads share it."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


@dataclass(frozen=True)
class Scores:
    """How scores become probabilities."""

    scale: float
    softcap: float = 0.0
    precision: DataType | None = None


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: Scores) -> tuple[Tensor, list[Tensor]]:
    """softmax(cap(Q K' scale) + bias) V, [batch, heads, positions, width]; rows that see nothing give zero.

    Returns:
        The result, and what lies on the way: scores, capped scores, biased scores, probabilities.
    """
    root = math.sqrt(how.scale)
    scores = (query * root) @ (shared(key, query.shape[1]) * root).transpose(-1, -2)
    capped = how.softcap * torch.tanh(scores / how.softcap) if how.softcap else scores
    biased = capped if bias is None else capped + bias
    exact = biased if how.precision is None else biased.to(torch_dtype(how.precision))
    if bias is None:
        chances = torch.softmax(exact, -1)
    else:
        # Zeros go in as well as out: the gradient of a softmax of nothing but minus infinity is NaN, masked or not.
        blind = (exact == -math.inf).all(-1, keepdim=True)
        chances = torch.where(blind, 0, torch.softmax(torch.where(blind, 0, exact), -1))
    chances = chances.to(query.dtype)
    return chances @ shared(value, query.shape[1]), [scores, capped, biased, chances]


def banned(allowed: Tensor, like: Tensor) -> Tensor:
    """Zero where a key may be seen, minus infinity elsewhere."""
    return torch.where(allowed, 0.0, -math.inf).to(like.dtype)


@torch_rules.register("Attention")
def _attention(call: Call) -> tuple[Tensor, ...]:
    query, key, value = call[0], call[1], call[2]
    is_flat = query.dim() == 3
    if is_flat:
        heads, shared_heads = call.attribute("q_num_heads"), call.attribute("kv_num_heads")
        query, key, value = by_head(query, heads), by_head(key, shared_heads), by_head(value, shared_heads)
    past_key, past_value = call.get(4), call.get(5)
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    scale = call.attribute("scale")
    precision = call.attribute("softmax_precision")
    how = Scores(
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale,
        softcap=call.attribute("softcap", 0.0),
        precision=None if precision is None else DataType(precision),
    )
    made, stages = attend(query, key, value, _bias(call, query, key), how)
    shown = stages[call.attribute("qk_matmul_output_mode", 0)]
    return flat(made) if is_flat else made, key, value, shown


def _bias(call: Call, query: Tensor, key: Tensor) -> Tensor | None:
    """What masks, the order of positions, a sliding window and padding add to scores, where there is any of them."""
    lengths, mask = call.get(6), call.get(3)
    parts = [] if mask is None else [_mask(mask, key.shape[2], query)]
    past = call.get(4)
    offset = torch.zeros((), dtype=torch.int64, device=query.device) if past is None else past.shape[2]
    if past is None and lengths is not None:
        offset = (lengths.reshape(-1, 1, 1, 1) - query.shape[2]).to(torch.int64)
    rows = torch.arange(query.shape[2], device=query.device).reshape(-1, 1) + offset
    columns = torch.arange(key.shape[2], device=query.device)
    before, after = call.attribute("left_window_size", -1), call.attribute("right_window_size", -1)
    if call.attribute("is_causal", 0):
        parts.append(banned(columns <= rows, query))
    if before >= 0:
        parts.append(banned(rows - columns <= before, query))
    if after >= 0:
        parts.append(banned(columns - rows <= after, query))
    if lengths is not None:
        parts.append(banned(columns < lengths.reshape(-1, 1, 1, 1), query))
    return sum(parts[1:], parts[0]) if parts else None


def _mask(mask: Tensor, length: int, like: Tensor) -> Tensor:
    """A mask as what it adds; keys behind its end are not seen."""
    bias = banned(mask, like) if mask.dtype == torch.bool else mask.to(like.dtype)
    return torch.nn.functional.pad(bias, (0, length - bias.shape[-1]), value=-math.inf)


# ---- rotary positions ----------------------------------------------------------------------------------------------


def rotate(x: Tensor, cosine: Tensor, sine: Tensor, interleaved: bool) -> Tensor:
    """Turns pairs of columns of [batch, heads, positions, width]; columns behind the tables' stay (Su et al., 2021).

    Args:
        x: what is turned.
        cosine: [batch, 1, positions, pairs].
        sine: likewise.
        interleaved: pairs are neighbours; else a column's partner is half the turned width away.
    """
    pairs = cosine.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]
    one, other = first * cosine - second * sine, first * sine + second * cosine
    made = torch.stack([one, other], -1).flatten(-2) if interleaved else torch.cat([one, other], -1)
    return torch.cat([made, rest], -1)


def _rotated(call: Call, cosine: Tensor, sine: Tensor) -> Tensor:
    """An op's first input, turned by tables [batch, positions, pairs]."""
    x, width = call[0], call.attribute("rotary_embedding_dim", 0)
    heads = call.attribute("num_heads", 0)
    is_flat = x.dim() == 3
    if is_flat:
        heads = heads or x.shape[2] // (width or 2 * cosine.shape[-1])
    by = by_head(x, heads) if is_flat else x
    pairs = (width or by.shape[-1]) // 2
    made = rotate(by, cosine[:, None, :, :pairs], sine[:, None, :, :pairs], bool(call.attribute("interleaved", 0)))
    return flat(made) if is_flat else made


@torch_rules.register("RotaryEmbedding")
def _rotary(call: Call) -> Tensor:
    cosine, sine, places = call[1], call[2], call.get(3)
    if places is not None:
        cosine, sine = cosine[places.long()], sine[places.long()]
    return _rotated(call, cosine, sine)


@torch_rules.register("com.microsoft::RotaryEmbedding")
def _rotary_contrib(call: Call) -> Tensor:
    """A single position is that of the first token of every sample."""
    x, places = call[0], call[1].long()
    length = x.shape[1] if x.dim() == 3 else x.shape[2]
    if places.numel() == 1 and places.dim() == 1:
        places = (places + torch.arange(length, device=x.device)).expand(x.shape[0], length)
    scale = call.attribute("scale", 1.0)
    made = _rotated(call, call[2][places], call[3][places])
    return made if scale == 1.0 else made * scale


# ---- linear attention ----------------------------------------------------------------------------------------------


@torch_rules.register("LinearAttention", "com.microsoft::LinearAttention")
def _linear_attention(call: Call) -> tuple[Tensor, Tensor]:
    """A state [batch, heads, key width, value width] that each position decays, corrects, adds to and reads."""
    rule = call.attribute("update_rule", "gated_delta")
    heads, shared_heads = call.attribute("q_num_heads"), call.attribute("kv_num_heads")
    query, key, value = (wide(by_head(call[port], count)) for port, count in enumerate((heads, *[shared_heads] * 2)))
    past, decay, rate = call.get(3), call.get(4), call.get(5)
    batch, _, length, width = key.shape
    state = torch.zeros(batch, shared_heads, width, value.shape[-1], dtype=key.dtype, device=key.device)
    state = state if past is None else wide(past)
    steps = None if decay is None else wide(by_head(decay, shared_heads))
    rates = None if rate is None else wide(rate).transpose(1, 2).unsqueeze(-1)
    scale = call.attribute("scale", 0.0) or 1 / math.sqrt(width)
    made = []
    for place in range(length):
        k, v = key[:, :, place, :, None], value[:, :, place, None, :]
        if steps is not None and "gated" in rule:
            state = state * torch.exp(steps[:, :, place, :, None])
        if rates is not None and "delta" in rule:
            v = rates[:, :, place, :, None] * (v - (state * k).sum(2, keepdim=True))
        state = state + k * v
        made.append(scale * (query[:, :, place, :, None] * shared(state, heads)).sum(2))
    result = flat(torch.stack(made, 2)).to(call[0].dtype)
    return result, state.to(call[0].dtype if past is None else past.dtype)
