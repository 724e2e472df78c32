"""Windows, Fourier transforms and what is built on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from secateur.backends.torch.call import Call, axis_of, torch_rules
from secateur.backends.torch.dtypes import torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.ir import DataType

if TYPE_CHECKING:
    from torch import Tensor

_COSINES = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@torch_rules.register(*_COSINES)
def _window(call: Call) -> Tensor:
    """A sum of cosines over as many numbers; a periodic one stops before it is back at its start."""
    size = int(call.number(0))
    level, first, second = _COSINES[call.op.op_type]
    turns = 2 * math.pi * torch.arange(size, dtype=torch.float64)
    turns = turns / (size if call.attribute("periodic", 1) else size - 1)
    made = level - first * torch.cos(turns) + second * torch.cos(2 * turns)
    wanted = torch_dtype(DataType(call.attribute("output_datatype", int(DataType.FLOAT32))))
    return made.to(wanted).to(call.home if wanted.is_floating_point else call.device)


def _complex(x: Tensor) -> Tensor:
    """The last axis holds the real part, or both parts."""
    return (
        torch.view_as_complex(x.contiguous())
        if x.shape[-1] == 2
        else torch.complex(x[..., 0], torch.zeros_like(x[..., 0]))
    )


@torch_rules.register("DFT")
def _transform(call: Call) -> Tensor:
    x = call[0]
    said = call.attribute("axis", 1) if call.opset < 20 else int(call.number(2, -2))
    axis = axis_of(said, x.dim())
    length = call.number(1)
    numbers = _complex(x)
    if call.attribute("inverse", 0):
        made = torch.fft.ifft(_fitted(numbers, axis, call, length), length, axis)
        return made.real.unsqueeze(-1) if call.attribute("onesided", 0) else torch.view_as_real(made)
    made = torch.fft.fft(numbers, length, axis)
    if call.attribute("onesided", 0):
        made = made.narrow(axis, 0, made.shape[axis] // 2 + 1)
    return torch.view_as_real(made)


def _fitted(x: Tensor, axis: int, call: Call, length: int | None) -> Tensor:
    """The other half of a one-sided spectrum, which is the conjugate of the first one."""
    if not call.attribute("onesided", 0):
        return x
    size = length or 2 * (x.shape[axis] - 1)
    rest = x.narrow(axis, 1, size - x.shape[axis]).flip(axis).conj()
    return torch.cat([x, rest], axis)


@torch_rules.register("STFT")
def _short_transform(call: Call) -> Tensor:
    x, step, shape = call[0], int(call.number(1)), call.get(2)
    length = int(call.number(3)) if call.raw(3) is not None else int(shape.shape[0]) if shape is not None else 0
    numbers = x if x.dim() == 3 else x.unsqueeze(-1)
    frames = _complex(numbers).unfold(1, length, step)
    frames = frames if shape is None else frames * shape
    made = torch.fft.fft(frames, dim=-1)
    return torch.view_as_real(made[..., : length // 2 + 1] if call.attribute("onesided", 1) else made)


@torch_rules.register("MelWeightMatrix")
def _mel(call: Call) -> Tensor:
    """Triangles on a scale of pitches, over the bins of a spectrum."""
    bands, length, rate = (int(call.number(port)) for port in range(3))
    low, high = (2595 * math.log10(1 + call.number(port) / 700) for port in (3, 4))
    bins = length // 2 + 1
    pitches = torch.arange(bands + 2, dtype=torch.float64) * ((high - low) / (bands + 2)) + low
    edges = torch.floor((length + 1) * (700 * (10 ** (pitches / 2595) - 1)) / rate).long().tolist()
    made = torch.zeros(bins, bands, dtype=torch.float64)
    for band in range(bands):
        first, centre, last = edges[band : band + 3]
        if centre == first:
            made[centre, band] = 1
        else:
            made[first : centre + 1, band] = torch.arange(centre - first + 1) / (centre - first)
        if last > centre:
            made[centre:last, band] = (last - torch.arange(centre, last)) / (last - centre)
    return made.to(torch_dtype(DataType(call.attribute("output_datatype", int(DataType.FLOAT32)))))


@torch_rules.register("com.microsoft::Irfft", "com.microsoft::Rfft")
def _real_transform(call: Call) -> Tensor:
    x, rank = call[0], call.attribute("signal_ndim", 1)
    if call.op.op_type == "Rfft":
        return torch.view_as_real(torch.fft.rfftn(x, dim=tuple(range(-rank, 0))))
    return torch.fft.irfftn(_complex(x), dim=tuple(range(-rank, 0)))
