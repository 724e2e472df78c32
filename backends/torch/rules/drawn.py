"""What is drawn at random: by torch's generator, seeded where the op says how; no other runtime draws the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.backends.torch.call import Call, torch_rules
from secateur.backends.torch.dtypes import torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor


def _generator(call: Call, device: Any) -> Any:
    seed = call.attribute("seed")
    return None if seed is None else torch.Generator(device).manual_seed(int(seed))


def _drawn(call: Call, shape: Any, dtype: Any) -> Tensor:
    device = call.home
    if "Normal" in call.op.op_type:
        made = torch.randn(shape, generator=_generator(call, device), device=device)
        made = made * call.attribute("scale", 1.0) + call.attribute("mean", 0.0)
    else:
        low, high = call.attribute("low", 0.0), call.attribute("high", 1.0)
        made = torch.rand(shape, generator=_generator(call, device), device=device) * (high - low) + low
    return made.to(dtype)


@torch_rules.register("RandomNormal", "RandomUniform")
def _of_shape(call: Call) -> Tensor:
    return _drawn(call, call.attribute("shape"), call.dtype())


@torch_rules.register("RandomNormalLike", "RandomUniformLike")
def _like(call: Call) -> Tensor:
    x = call.raw(0)
    said = call.attribute("dtype")
    return _drawn(call, x.shape, x.dtype if said is None else torch_dtype(DataType(said)))


@torch_rules.register("Bernoulli")
def _bernoulli(call: Call) -> Tensor:
    x, said = call[0], call.attribute("dtype")
    chance = torch.rand(x.shape, generator=_generator(call, x.device), device=x.device)
    return (chance < x).to(x.dtype if said is None else torch_dtype(DataType(said)))


@torch_rules.register("Multinomial")
def _multinomial(call: Call) -> Tensor:
    x = call[0]
    chances, count = torch.softmax(x.float(), -1), call.attribute("sample_size", 1)
    made = torch.multinomial(chances, count, replacement=True, generator=_generator(call, x.device))
    return made.to(call.dtype(default=DataType.INT32))
