"""The attention operators that onnxruntime fuses models into (domain com.microsoft)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.rules.attention import Scores, attend, banned, by_head, flat, rotate

if TYPE_CHECKING:
    from torch import Tensor


def _scale(call: Call, width: int) -> float:
    return call.attribute("scale", 0.0) or 1 / math.sqrt(width)


def _hidden(call: Call, allowed: Tensor, like: Tensor) -> Tensor:
    """A finite number where a key is masked, as onnxruntime has it: a row that sees nothing is then even."""
    return torch.where(allowed, 0.0, call.attribute("mask_filter_value", -10000.0)).to(like.dtype)


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """Queries are the last positions of the keys."""
    rows = torch.arange(query.shape[2], device=query.device).reshape(-1, 1) + key.shape[2] - query.shape[2]
    return torch.arange(key.shape[2], device=query.device) <= rows


def _padding(call: Call, mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """A mask of any of the forms that onnxruntime takes, as what it adds to scores."""
    length, batch = key.shape[2], query.shape[0]
    if mask.dim() == 1:
        columns = torch.arange(length, device=query.device)
        ends = mask[:batch].reshape(-1, 1, 1, 1)
        allowed = columns < ends
        if mask.numel() == 2 * batch:
            allowed = allowed & (columns >= mask[batch:].reshape(-1, 1, 1, 1))
        return _hidden(call, allowed, query)
    seen = mask != 0
    if mask.dim() == 2:
        seen = seen[:, None, None, :]
    elif mask.dim() == 3:
        seen = seen[:, None]
    else:
        seen = seen[:, :, -query.shape[2] :, :length]
    return _hidden(call, seen, query)


def _added(parts: list[Tensor]) -> Tensor | None:
    return sum(parts[1:], parts[0]) if parts else None


@torch_rules.register("com.microsoft::Attention")
def _attention(call: Call) -> tuple[Tensor, ...]:
    """Queries, keys and values from one product; past and present are keys and values stacked."""
    made = call[0] @ call[1]
    bias = call.get(2)
    made = made if bias is None else made + bias
    widths = list(call.attribute("qkv_hidden_sizes") or [made.shape[-1] // 3] * 3)
    heads = call.attribute("num_heads")
    query, key, value = (by_head(part, heads) for part in made.split(widths, -1))
    if call.attribute("do_rotary", 0):
        raise call.refuse("with rotary positions inside")
    past = call.get(4)
    if past is not None:
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
    parts = [] if call.get(3) is None else [_padding(call, call[3], query, key)]
    if call.get(5) is not None:
        parts.append(call[5])
    if call.attribute("unidirectional", 0):
        parts.append(banned(_causal(query, key), query))
    result, _ = attend(query, key, value, _added(parts), Scores(_scale(call, query.shape[-1])))
    present = (torch.stack([key, value]),) if call.wants(1) else ()
    return (flat(result), *present)


@torch_rules.register("com.microsoft::MultiHeadAttention")
def _multi_head(call: Call) -> tuple[Tensor, ...]:
    heads = call.attribute("num_heads")
    query, key, value = _projected(call, heads)
    past_key, past_value = call.get(6), call.get(7)
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    parts = [] if call.get(4) is None else [_padding(call, call[4], query, key)]
    if call.get(5) is not None:
        parts.append(call[5])
    if call.attribute("unidirectional", 0):
        parts.append(banned(_causal(query, key), query))
    result, stages = attend(query, key, value, _added(parts), Scores(_scale(call, query.shape[-1])))
    return flat(result), key, value, stages[0]


def _projected(call: Call, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values by head, however they come: apart, by head, or packed; a bias added."""
    query, key, value, bias = call[0], call.get(1), call.get(2), call.get(3)
    if key is None:
        packed = query.unbind(3) if query.dim() == 5 else None
        parts = [part.flatten(2) for part in packed] if packed else list(query.chunk(3, -1))
    elif value is None:
        parts = [query, *(part.flatten(2) for part in key.unbind(3))]
    else:
        parts = [query, key, value]
    offset = 0
    found = []
    for part in parts:
        is_flat = part.dim() == 3
        if bias is not None:
            width = part.shape[-1] if is_flat else part.shape[1] * part.shape[-1]
            own = bias[offset : offset + width]
            offset += width
            part = part + (own if is_flat else own.reshape(part.shape[1], 1, part.shape[-1]))
        found.append(by_head(part, heads) if is_flat else part)
    return found[0], found[1], found[2]


@torch_rules.register("com.microsoft::GroupQueryAttention")
def _group_query(call: Call) -> tuple[Tensor, ...]:
    """Causal; each sample has its own number of keys, those of the past first, and the new ones written behind them."""
    heads, shared_heads = call.attribute("num_heads"), call.attribute("kv_num_heads")
    query, key, value = _parts(call, heads, shared_heads)
    batch, _, length, width = query.shape
    total = (call[5].reshape(-1).to(torch.int64) + 1).expand(batch)
    before = total - length if call.get(3) is not None else torch.zeros_like(total)
    places = before.clamp(min=0).reshape(-1, 1) + torch.arange(length, device=query.device)
    if call.attribute("do_rotary", 0):
        given = call.get(9)
        tables = [call[port][places if given is None else given.long()][:, None] for port in (7, 8)]
        near = bool(call.attribute("rotary_interleaved", 0))
        query, key = (rotate(one, tables[0], tables[1], near) for one in (query, key))
    key, value = (_cached(call.get(port), new, places, int(call.number(6))) for port, new in ((3, key), (4, value)))
    columns = torch.arange(key.shape[2], device=query.device)
    rows = places[:, None, :, None]
    allowed = columns <= rows
    window = call.attribute("local_window_size", -1)
    if window > 0:
        allowed = allowed & (columns > rows - window)
    parts = [banned(allowed, query)]
    if call.get(10) is not None:
        parts.append(call[10][..., : key.shape[2]])
    how = Scores(_scale(call, width), call.attribute("softcap", 0.0))
    sink = call.get(11)
    if sink is None and not call.attribute("smooth_softmax", 0):
        result, stages = attend(query, key, value, _added(parts), how)
        return flat(result), key, value, stages[3]
    return _with_sink(query, key, value, _added(parts), how, sink)


def _with_sink(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: Scores, sink: Tensor | None
) -> tuple[Tensor, ...]:
    """A key more, without value, that takes a share of each head's attention: its score is the head's sink, or zero."""
    _, stages = attend(query, key, value, bias, how)
    heads = query.shape[1]
    scores = torch.zeros(heads, device=query.device, dtype=query.dtype) if sink is None else sink.reshape(heads)
    column = scores.reshape(1, -1, 1, 1).expand(*stages[2].shape[:3], 1)
    chances = torch.softmax(torch.cat([stages[2], column], -1), -1)[..., :-1]
    values = value.repeat_interleave(heads // value.shape[1], 1)
    return flat(chances @ values), key, value, chances


def _parts(call: Call, heads: int, shared_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = call[0], call.get(1), call.get(2)
    if key is None or value is None:
        width = query.shape[-1] // (heads + 2 * shared_heads)
        query, key, value = query.split([heads * width, shared_heads * width, shared_heads * width], -1)
    return by_head(query, heads), by_head(key, shared_heads), by_head(value, shared_heads)


def _cached(past: Tensor | None, new: Tensor, places: Tensor, total: int) -> Tensor:
    """The cache with new positions written where each sample ends, and zeros behind them."""
    if past is None:
        return new
    size = max(total, past.shape[2])
    room = torch.zeros(*past.shape[:2], size - past.shape[2], past.shape[3], dtype=past.dtype, device=past.device)
    behind = torch.arange(size, device=past.device) > places[:, -1:]
    whole = torch.where(behind[:, None, :, None], 0, torch.cat([past, room], 2))
    return whole.scatter(2, places[:, None, :, None].expand_as(new), new)
