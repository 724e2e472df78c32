"""Number formats that TensorRT computes with, or reads weights in: what they store, and what their scales span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from secateur.calib.solvers.grids import FP4, FP8, INT4, INT8, INT8_DATA, Grid
from secateur.passes.registry import suggest

SMALLEST_BLOCK = 16
"""TensorRT has kernels for blocks of 16, 32, 64, 128 and 256 weights."""


@dataclass(frozen=True)
class Format:
    """What becomes of a layer's weights, and of what it reads.

    Attributes:
        name: as options and reports call it.
        grid: of the weights.
        data: of what the layer reads; None where that stays as it is (weight only).
        block: how many weights share a scale, along the input channels; None for one scale an output channel.
        levels: what scales are: numbers of the model's own type; powers of two; or numbers of eight bits, which one
            scale of the whole weight multiplies.
        dynamic: the op that quantizes data as the model runs, in place of a scale from calibration; "" for none.
        opset: the first that has what is emitted.
        remark: what users should know of it.
    """

    name: str
    grid: Grid
    data: Grid | None
    block: int | None = None
    levels: Literal["plain", "power", "double"] = "plain"
    dynamic: str = ""
    opset: int = 13
    remark: str = ""

    @property
    def reads_data(self) -> bool:
        """True where what the layer reads is quantized, too."""
        return self.data is not None or bool(self.dynamic)

    @property
    def is_blocked(self) -> bool:
        """True for a format of matrix products alone."""
        return self.block is not None

    def fitting_block(self, inputs: int) -> int | None:
        """The largest block, halved as often as it takes, that divides the input channels and is not all of them.

        None where there is none. TensorRT has no kernel for one block over all input channels.
        """
        block = self.block or 0
        while block >= SMALLEST_BLOCK:
            if inputs % block == 0 and (inputs > block or self.levels != "plain"):
                return block
            if self.levels != "plain":
                return None
            block //= 2
        return None

    def with_block(self, block: int) -> Format:
        """The same with blocks of another size, where it has blocks of any size; 0 leaves it as it is."""
        return replace(self, block=block) if block and self.is_blocked and self.levels == "plain" else self

    def bits(self, block: int | None, inputs: int, scale_bits: int) -> float:
        """What one weight takes on the average, scales included."""
        size = {"plain": scale_bits, "power": 8, "double": 8}[self.levels]
        return self.grid.bits + size / (block or inputs)


_FIRST = "TensorRT-RTX 1.7 dequantizes before the product: fewer bytes, no faster arithmetic"

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        one.name: one
        for one in (
            Format("int8", INT8, INT8_DATA),
            Format("fp8", FP8, FP8, opset=19),
            Format("int4", INT4, None, block=128, opset=21),
            Format("int8-block", INT8, None, block=128, opset=21, remark=_FIRST),
            Format(
                "nvfp4",
                FP4,
                None,
                block=16,
                levels="double",
                dynamic="trt::TRT_FP4DynamicQuantize",
                opset=23,
                remark="onnxruntime does not run it",
            ),
            Format(
                "mxfp8",
                FP8,
                None,
                block=32,
                levels="power",
                dynamic="trt::TRT_MXFP8DynamicQuantize",
                opset=19,
                remark=f"{_FIRST}; onnxruntime does not run it",
            ),
        )
    }
)
"""By name.

- int8: weights a scale for each output channel, data one; what all targets compute with.
- fp8: E4M3, the same scales; from compute capability 8.9 on.
- int4, int8-block: weights alone, a scale for each block; dequantized while they are multiplied (int4), or before.
- nvfp4: weights and data in E2M1, a scale of E4M3 for every 16, one of float32 above; from 12.0 on.
- mxfp8: weights and data in E4M3, a power of two for every 32 (OCP Microscaling Formats, 2023); from 12.0 on.
"""


def find_format(name: str) -> Format | None:
    """The format of a name; None for `float`.

    Raises:
        ValueError: there is none; says which are near.
    """
    if name == "float":
        return None
    if name not in FORMATS:
        raise ValueError(f"there is no number format {name!r}: {suggest(name, ['float', *FORMATS])}")
    return FORMATS[name]
