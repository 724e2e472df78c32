"""The same elements under another shape, and tensors of a given shape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, host, torch_rules
from secateur.backends.torch.dtypes import from_array, torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.ir import DataType
from secateur.ir import Tensor as Constant

if TYPE_CHECKING:
    from torch import Tensor


@torch_rules.register("Shape")
def _shape(call: Call) -> Tensor:
    shape = list(call.raw(0).shape)
    return host(shape[slice(call.attribute("start", 0), call.attribute("end"))])


@torch_rules.register("Size")
def _size(call: Call) -> Tensor:
    return torch.tensor(call.raw(0).numel(), dtype=torch.int64)


@torch_rules.register("Reshape")
def _reshape(call: Call) -> Tensor:
    x, wanted = call[0], call.ints(1) or []
    if call.attribute("allowzero", 0):
        return x.reshape(wanted)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)])


@torch_rules.register("Flatten")
def _flatten(call: Call) -> Tensor:
    x = call[0]
    axis = axis_of(call.attribute("axis", 1), x.dim())
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@torch_rules.register("Squeeze")
def _squeeze(call: Call) -> Tensor:
    x, axes = call[0], call.ints_or_attribute(1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@torch_rules.register("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    x, axes = call[0], call.ints_or_attribute(1, "axes") or []
    for axis in sorted(axis_of(axis, x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


@torch_rules.register("com.microsoft::ExpandDims")
def _expand_dims(call: Call) -> Tensor:
    return call[0].unsqueeze(int(call.number(1)))


@torch_rules.register("Transpose")
def _transpose(call: Call) -> Tensor:
    x = call[0]
    return x.permute(call.attribute("perm") or tuple(reversed(range(x.dim()))))


@torch_rules.register("Expand")
def _expand(call: Call) -> Tensor:
    x, wanted = call[0], call.ints(1) or []
    return x.expand(torch.broadcast_shapes(x.shape, tuple(wanted)))


@torch_rules.register("Tile")
def _tile(call: Call) -> Tensor:
    return call[0].repeat(call.ints(1) or [])


@torch_rules.register("ConstantOfShape")
def _constant_of_shape(call: Call) -> Tensor:
    value = call.attribute("value")
    number = host([0], DataType.FLOAT32) if value is None else from_array(value.numpy())
    where = call.home if number.is_floating_point() else call.device
    return number.to(where).reshape(()).expand(call.ints(0) or []).clone()


@torch_rules.register("Constant")
def _constant(call: Call) -> Tensor:
    """Of the forms that an importer leaves as ops."""
    for name, dtype in _PLAIN.items():
        if name in call.attributes:
            return torch.tensor(call.attribute(name), dtype=torch_dtype(dtype))
    value = call.attribute("value")
    if not isinstance(value, Constant) or value.dtype is DataType.STRING:
        raise call.refuse("whose value is neither numbers nor dense")
    return call.constant(value)


_PLAIN = {
    "value_int": DataType.INT64,
    "value_ints": DataType.INT64,
    "value_float": DataType.FLOAT32,
    "value_floats": DataType.FLOAT32,
}


@torch_rules.register("Range", "com.microsoft::Range")
def _range(call: Call) -> Tensor:
    """As many numbers as fit, each start + i * step: sums of steps would drift."""
    start, end, step = call.number(0), call.number(1), call.number(2, 1)
    dtype = call.raw(0).dtype
    count = max(0, math.ceil((end - start) / step))
    made = torch.arange(count, dtype=dtype if not dtype.is_floating_point else torch.float64)
    return (made * step + start).to(dtype)


@torch_rules.register("EyeLike")
def _eye(call: Call) -> Tensor:
    x, offset = call[0], call.attribute("k", 0)
    said = call.attribute("dtype")
    made = torch.ones(x.shape, dtype=x.dtype if said is None else torch_dtype(DataType(said)), device=x.device)
    return torch.triu(torch.tril(made, offset), offset)


@torch_rules.register("Trilu", "com.microsoft::Trilu")
def _triangle(call: Call) -> Tensor:
    offset = int(call.number(1, 0))
    return (torch.triu if call.attribute("upper", 1) else torch.tril)(call[0], offset)


@torch_rules.register("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    x, size = call[0], call.attribute("blocksize")
    n, c, h, w = x.shape
    if call.attribute("mode", "DCR") == "DCR":
        made = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        made = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    return made.reshape(n, c // size**2, h * size, w * size)


@torch_rules.register("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    x, size = call[0], call.attribute("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // size, size, w // size, size)
    made = (
        parts.permute(0, 1, 3, 5, 2, 4) if call.attribute("mode", "DCR") == "CRD" else parts.permute(0, 3, 5, 1, 2, 4)
    )
    return made.reshape(n, c * size**2, h // size, w // size)
