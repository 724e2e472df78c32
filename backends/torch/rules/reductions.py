"""Reductions, and what runs over an axis and keeps it: softmax, cumulative sums, the best of an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Tensor

Dims = tuple[int, ...]


def _sum(x: Tensor, dims: Dims) -> Tensor:
    return x.sum(dims, keepdim=True).to(x.dtype) if dims else x


def _mean(x: Tensor, dims: Dims) -> Tensor:
    if not dims:
        return x
    if x.is_floating_point():
        return x.mean(dims, keepdim=True)
    return torch.div(_sum(x, dims), math.prod(x.shape[dim] for dim in dims), rounding_mode="trunc")


def _best(name: str, empty: float) -> Callable[[Tensor, Dims], Tensor]:
    def reduce(x: Tensor, dims: Dims) -> Tensor:
        if not dims:
            return x
        if all(x.shape[dim] for dim in dims):
            return getattr(torch, name)(x, dims, keepdim=True)
        shape = [1 if axis in dims else size for axis, size in enumerate(x.shape)]
        if x.is_floating_point():
            return torch.full(shape, empty, dtype=x.dtype, device=x.device)
        info = None if x.dtype == torch.bool else torch.iinfo(x.dtype)
        number = empty > 0 if info is None else info.max if empty > 0 else info.min
        return torch.full(shape, number, dtype=x.dtype, device=x.device)

    return reduce


def _product(x: Tensor, dims: Dims) -> Tensor:
    for dim in dims:
        x = x.prod(dim, keepdim=True).to(x.dtype)
    return x


def _log_sum_exp(x: Tensor, dims: Dims) -> Tensor:
    if x.is_floating_point():
        return torch.logsumexp(x, dims, keepdim=True) if dims else x
    return torch.logsumexp(x.to(torch.float64), dims, keepdim=True).to(x.dtype)


_REDUCTIONS: dict[str, Callable[[Tensor, Dims], Tensor]] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _best("amax", -math.inf),
    "ReduceMin": _best("amin", math.inf),
    "ReduceProd": _product,
    "ReduceL1": lambda x, dims: _sum(x.abs(), dims),
    "ReduceL2": lambda x, dims: _root(_sum(x * x, dims)),
    "ReduceSumSquare": lambda x, dims: _sum(x * x, dims),
    "ReduceLogSum": lambda x, dims: torch.log(_sum(x, dims)),
    "ReduceLogSumExp": _log_sum_exp,
}


def _root(x: Tensor) -> Tensor:
    return torch.sqrt(x) if x.is_floating_point() else torch.sqrt(x.to(torch.float64)).to(x.dtype)


def _reduced(function: Callable[[Tensor, Dims], Tensor], call: Call) -> Tensor:
    x = call[0]
    said = call.ints_or_attribute(1, "axes")
    if said:
        dims = tuple(axis_of(axis, x.dim()) for axis in said)
    else:
        dims = () if call.attribute("noop_with_empty_axes", 0) else tuple(range(x.dim()))
    made = function(x, dims)
    return made if call.attribute("keepdims", 1) or not dims else made.squeeze(dims)


def _reduction(name: str) -> None:
    torch_rules.add(name, lambda call: _reduced(_REDUCTIONS[name], call))


for _name in _REDUCTIONS:
    _reduction(_name)


@torch_rules.register("ArgMax", "ArgMin")
def _position(call: Call) -> Tensor:
    x = call[0]
    axis = axis_of(call.attribute("axis", 0), x.dim())
    find = torch.argmax if call.op.op_type == "ArgMax" else torch.argmin
    if call.attribute("select_last_index", 0):
        made = x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=True)
    else:
        made = find(x, axis, keepdim=True)
    return made if call.attribute("keepdims", 1) else made.squeeze(axis)


@torch_rules.register("TopK")
def _top(call: Call) -> tuple[Tensor, Tensor]:
    """Of equal numbers the first; a stable sort, since torch's own choice among them is not told."""
    x = call[0]
    axis = call.attribute("axis", -1)
    count = int(call.number(1)) if call.opset >= 10 else call.attribute("k")
    numbers, places = torch.sort(x, dim=axis, descending=bool(call.attribute("largest", 1)), stable=True)
    return numbers.narrow(axis, 0, count), places.narrow(axis, 0, count)


def _over_axis(call: Call, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before opset 13, axis 1 and all behind it count as one; since then the last axis is meant, if none is said."""
    x = call[0]
    if call.opset >= 13:
        return function(x, call.attribute("axis", -1))
    axis = axis_of(call.attribute("axis", 1), x.dim())
    return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(x.shape)


@torch_rules.register("Softmax")
def _softmax(call: Call) -> Tensor:
    return _over_axis(call, torch.softmax)


@torch_rules.register("LogSoftmax")
def _log_softmax(call: Call) -> Tensor:
    return _over_axis(call, torch.log_softmax)


@torch_rules.register("Hardmax")
def _hardmax(call: Call) -> Tensor:
    def hard(x: Tensor, axis: int) -> Tensor:
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)

    return _over_axis(call, hard)


@torch_rules.register("CumSum", "CumProd")
def _cumulative(call: Call) -> Tensor:
    x, is_sum = call[0], call.op.op_type == "CumSum"
    axis = axis_of(int(call.number(1)), x.dim())
    x = x.flip(axis) if call.attribute("reverse", 0) else x
    made = (torch.cumsum if is_sum else torch.cumprod)(x, axis).to(x.dtype)
    if call.attribute("exclusive", 0):
        first = torch.full_like(x.narrow(axis, 0, 1), 0 if is_sum else 1)
        made = torch.cat([first, made.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return made.flip(axis) if call.attribute("reverse", 0) else made


@torch_rules.register("NegativeLogLikelihoodLoss")
def _likelihood(call: Call) -> Tensor:
    return _loss(call, call[0])


@torch_rules.register("SoftmaxCrossEntropyLoss")
def _cross_entropy(call: Call) -> tuple[Tensor, Tensor]:
    logits = torch.log_softmax(call[0], 1)
    return _loss(call, logits), logits


def _loss(call: Call, logits: Tensor) -> Tensor:
    """The mean is over the weights of the labels that count; where none does it is NaN, as 0 / 0 is."""
    ignored = call.attribute("ignore_index", -100)
    labels, weight = call[1].to(torch.int64), call.get(2)
    return functional.nll_loss(
        logits, labels, weight=weight, ignore_index=ignored, reduction=call.attribute("reduction", "mean")
    )
