"""Cutting, joining and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


@torch_rules.register("Concat")
def _concat(call: Call) -> Tensor:
    return torch.cat(call.tensors(), call.attribute("axis", 1))


@torch_rules.register("Split")
def _split(call: Call) -> tuple[Tensor, ...]:
    x = call[0]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    return tuple(torch.split(x, split_sizes(call, x.shape[axis]), axis))


def split_sizes(call: Call, size: int) -> list[int]:
    """Sizes that are said, or as equal as can be: all but the last one are."""
    said = call.ints_or_attribute(1, "split")
    if said:
        return said
    count = call.attribute("num_outputs") or len(call.op.outputs)
    each = -(-size // count)
    return [min(each, max(0, size - each * index)) for index in range(count)]


@torch_rules.register("Slice")
def _slice(call: Call) -> Tensor:
    x = call[0]
    if call.opset < 10:
        starts, ends, axes = (list(call.attribute(name) or ()) for name in ("starts", "ends", "axes"))
        steps: list[int] = []
    else:
        starts, ends, axes, steps = (call.ints(port) or [] for port in (1, 2, 3, 4))
    axes = axes or list(range(len(starts)))
    spans: list[Any] = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        axis = axis_of(axis, x.dim())
        if step > 0:
            spans[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
            continue
        # Behind a negative step, Python takes an end before the first index for none at all only where it is left out.
        chosen = range(*slice(start, end if end >= -x.shape[axis] else None, step).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))
    return x[tuple(spans)]


@torch_rules.register("Pad")
def _pad(call: Call) -> Tensor:
    x, mode = call[0], call.attribute("mode", "constant")
    pads = list(call.attribute("pads") or ()) if call.opset < 11 else call.ints(1) or []
    axes = call.ints(3) if call.opset >= 18 else None
    axes = list(range(x.dim())) if axes is None else [axis_of(axis, x.dim()) for axis in axes]
    number = call.attribute("value", 0.0) if call.opset < 11 else call.number(2, 0)
    half = len(pads) // 2
    for axis, before, after in zip(axes, pads[:half], pads[half:], strict=True):
        x = _padded(x, axis, (before, after), mode, number)
    return x


def _padded(x: Tensor, axis: int, amounts: tuple[int, int], mode: str, number: Any) -> Tensor:
    before, after = amounts
    if mode == "constant":
        pads = [0, 0] * (x.dim() - 1 - axis) + [before, after]
        return torch.nn.functional.pad(x, pads, value=number) if before or after else x
    places = torch.arange(-before, x.shape[axis] + after, device=x.device)
    size = x.shape[axis]
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places.remainder(size)
    elif size == 1:
        places = torch.zeros_like(places)
    else:
        places = (places + size - 1).remainder(2 * size - 2).sub(size - 1).abs()
    return x.index_select(axis, places)


@torch_rules.register("CenterCropPad")
def _centre(call: Call) -> Tensor:
    x, wanted = call[0], call.ints(1) or []
    axes = call.attribute("axes") or range(x.dim())
    for axis, goal in zip(axes, wanted, strict=True):
        axis = axis_of(axis, x.dim())
        more = goal - x.shape[axis]
        if more < 0:
            x = x.narrow(axis, -more // 2, goal)
        else:
            x = _padded(x, axis, (more // 2, more - more // 2), "constant", 0)
    return x


@torch_rules.register("ReverseSequence")
def _reverse(call: Call) -> Tensor:
    """The first so many positions of each sample the other way round."""
    x, lengths = call[0], call.ints(1) or []
    batch, time = call.attribute("batch_axis", 1), call.attribute("time_axis", 0)
    made = []
    for index, length in enumerate(lengths):
        one = x.select(batch, index)
        axis = time if time < batch else time - 1
        made.append(torch.cat([one.narrow(axis, 0, length).flip(axis), _rest(one, axis, length)], axis))
    return torch.stack(made, batch)


def _rest(x: Tensor, axis: int, start: int) -> Tensor:
    return x.narrow(axis, start, x.shape[axis] - start)


@torch_rules.register("Unique")
def _unique(call: Call) -> tuple[Tensor, ...]:
    x, axis = call[0], call.attribute("axis")
    flat = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis_of(axis, x.dim())
    kept, inverse, counts = torch.unique(flat, sorted=True, return_inverse=True, return_counts=True, dim=along)
    inverse = inverse.reshape(-1)
    size = inverse.numel()
    first = torch.full((counts.numel(),), size, dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, inverse, torch.arange(size, device=x.device), "amin")
    if call.attribute("sorted", 1):
        return kept, first, inverse, counts
    order = first.argsort()
    return kept.index_select(along, order), first[order], order.argsort()[inverse], counts[order]


# ---- sequences and optionals ---------------------------------------------------------------------------------------


@torch_rules.register("SequenceConstruct")
def _construct(call: Call) -> list[Any]:
    return list(call.values)


@torch_rules.register("SequenceEmpty")
def _empty(call: Call) -> list[Any]:
    return []


@torch_rules.register("SequenceAt")
def _at(call: Call) -> Any:
    return call.raw(0)[int(call.number(1))]


@torch_rules.register("SequenceInsert")
def _insert(call: Call) -> list[Any]:
    items, place = list(call.raw(0)), call.number(2)
    items.insert(len(items) if place is None else axis_of(int(place), len(items)), call.raw(1))
    return items


@torch_rules.register("SequenceErase")
def _erase(call: Call) -> list[Any]:
    items = list(call.raw(0))
    del items[int(call.number(1, -1))]
    return items


@torch_rules.register("SequenceLength")
def _length(call: Call) -> Tensor:
    return torch.tensor(len(call.raw(0)), dtype=torch.int64)


@torch_rules.register("SplitToSequence")
def _split_to_sequence(call: Call) -> list[Tensor]:
    x = call[0]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    said = call.raw(1)
    if said is None:
        parts = list(torch.split(x, 1, axis))
        return parts if call.attribute("keepdims", 1) else [part.squeeze(axis) for part in parts]
    sizes: int | Sequence[int] = int(said.item()) if said.dim() == 0 else said.tolist()
    return list(torch.split(x, sizes, axis))


@torch_rules.register("ConcatFromSequence")
def _concat_from_sequence(call: Call) -> Tensor:
    join = torch.stack if call.attribute("new_axis", 0) else torch.cat
    return join(call.raw(0), call.attribute("axis"))


@torch_rules.register("Optional")
def _optional(call: Call) -> Any:
    return call.raw(0)


@torch_rules.register("OptionalHasElement")
def _has(call: Call) -> Tensor:
    return torch.tensor(call.raw(0) is not None)


@torch_rules.register("OptionalGetElement")
def _held(call: Call) -> Any:
    return call.raw(0)
