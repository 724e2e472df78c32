"""Looking up and writing by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positive(index: Tensor, size: int) -> Tensor:
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


@torch_rules.register("Gather")
def _gather(call: Call) -> Tensor:
    x = call[0]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    index = _positive(call[1], x.shape[axis])
    if index.dim() == 0:
        # A view that `select` makes would ask for a number; this doesn't wait for the device.
        return x.index_select(axis, index.reshape(1)).squeeze(axis)
    made = x.index_select(axis, index.reshape(-1))
    return made.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


@torch_rules.register("GatherElements")
def _gather_elements(call: Call) -> Tensor:
    x = call[0]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    return torch.gather(x, axis, _positive(call[1], x.shape[axis]))


@torch_rules.register("GatherND", "com.microsoft::GatherND")
def _gather_nd(call: Call) -> Tensor:
    x, index = call[0], call[1].to(torch.int64)
    lead = call.attribute("batch_dims", 0)
    return x[_places(index, x.shape, lead)]


def _places(index: Tensor, shape: Any, lead: int) -> tuple[Tensor, ...]:
    """One tensor of positions for each axis that the last axis of `index` counts, batch axes before them."""
    depth, free = index.shape[-1], index.dim() - 1
    batch = [
        torch.arange(shape[axis], device=index.device).reshape([-1 if one == axis else 1 for one in range(free)])
        for axis in range(lead)
    ]
    return (*batch, *(_positive(index[..., axis], shape[lead + axis]) for axis in range(depth)))


@torch_rules.register("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> Tensor:
    x, updates = call[0], call[2]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    index, how = _positive(call[1], x.shape[axis]), call.attribute("reduction", "none")
    if how == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[how], include_self=True)


@torch_rules.register("ScatterND")
def _scatter_nd(call: Call) -> Tensor:
    x, index, updates = call[0], call[1].to(torch.int64), call[2]
    how = call.attribute("reduction", "none")
    places = _places(index, x.shape, 0)
    if how in ("none", "add"):
        return x.index_put(places, updates, accumulate=how == "add")
    depth = index.shape[-1]
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, x.shape[:depth], strict=True):
        flat = flat * size + place
    rows = x.reshape(-1, *x.shape[depth:]).reshape(int(torch.tensor(x.shape[:depth]).prod()), -1)
    news = updates.reshape(-1, rows.shape[1])
    made = rows.scatter_reduce(0, flat.reshape(-1, 1).expand_as(news), news, _REDUCTIONS[how], include_self=True)
    return made.reshape(x.shape)


@torch_rules.register("TensorScatter")
def _tensor_scatter(call: Call) -> Tensor:
    """Each sample's update goes where its cache is to be written, round the end if that is circular."""
    cache, update, starts = call[0], call[1], call.get(2)
    axis = axis_of(call.attribute("axis", -2), cache.dim())
    begin = torch.zeros(cache.shape[0], dtype=torch.int64, device=cache.device) if starts is None else starts
    places = begin.reshape(-1, 1) + torch.arange(update.shape[axis], device=cache.device)
    if call.attribute("mode", "linear") == "circular":
        places = places.remainder(cache.shape[axis])
    shape = [1] * cache.dim()
    shape[0], shape[axis] = places.shape
    return cache.scatter(axis, places.reshape(shape).expand_as(update), update)


@torch_rules.register("OneHot")
def _one_hot(call: Call) -> Tensor:
    index, depth, values = call[0], int(call.number(1)), call[2]
    axis = axis_of(call.attribute("axis", -1), index.dim() + 1)
    index = index.to(torch.int64)
    wanted = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    shape = [1] * wanted.dim()
    shape[axis] = depth
    return torch.where(wanted == torch.arange(depth, device=index.device).reshape(shape), values[1], values[0])


@torch_rules.register("NonZero")
def _nonzero(call: Call) -> Tensor:
    return (
        torch.nonzero(call[0]).transpose(0, 1) if call[0].dim() else torch.nonzero(call[0].reshape(1)).transpose(0, 1)
    )


@torch_rules.register("Compress")
def _compress(call: Call) -> Tensor:
    x, chosen, axis = call[0], call[1], call.attribute("axis")
    x = x.reshape(-1) if axis is None else x
    return x.index_select(0 if axis is None else axis, torch.nonzero(chosen).reshape(-1))
