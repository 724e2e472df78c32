"""Queries, keys and values from one int8 product, written in the ways that TensorRT matches and in ways close to them.

matched  the product of a weight with a scale for each channel is computed in float
missed   one thing is different, and it is computed in int8
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import onnx
from helpers import tensorrt_models as models

TOKENS, WIDTH, HEADS = 11, 64, 4
Attributes = dict[str, object]


@dataclass(frozen=True)
class Packed:
    """How it is written.

    - `op`: MatMul and Add, or Gemm between Reshapes.
    - `cut`: "split" or "slice" the product, "unbind" it behind a Reshape to five axes, or behind a Transpose "gather"
      or "slices" or "splits" from those.
    - `end`: the parts are "heads", "attend" as MatMul and Softmax, "attend reshaped" as torch writes it, or go to the
      operator "Attention" or are "given out" as they are.
    - `between`: an op of one input, at the product, the parts of `which`, or those behind their Reshape: `at`.
    """

    op: Literal["MatMul", "Gemm"] = "MatMul"
    cut: str = "split"
    end: str = "attend"
    between: str = ""
    at: Literal["product", "part", "moved"] = "part"
    which: tuple[int, ...] = (0, 1, 2)
    scales: bool = True
    parts: int = 3
    sizes: tuple[int, ...] = ()
    dtype: object = np.float32
    shown: str = ""
    opset: int = 21


@dataclass
class _Writer:
    """Nodes and constants as they come; every value has the name that it is first given."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, op_type: str, *reads: str | np.ndarray, makes: str = "", **attributes: object) -> str:
        names = [one if isinstance(one, str) else self.constant(one) for one in reads]
        made = (makes or f"{op_type}_{len(self.nodes)}").split(",")
        self.nodes.append(
            onnx.helper.make_node(op_type, names, made, name=f"{op_type}_{len(self.nodes)}", **attributes)
        )
        return made[0]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def grid(self, value: str, dtype: object) -> str:
        step = self.constant(np.array(0.1, dtype))
        zero = self.constant(np.array(0, np.int8))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, step, zero), step, zero)

    def some(self, how: Packed, place: str, value: str) -> str:
        """The op in between, where it is wanted here."""
        if how.at != place or not how.between or (place == "part" and int(value[-1]) not in how.which):
            return value
        if how.between == "Grid":
            return self.grid(value, how.dtype)
        return self.op(how.between, value, *([np.array(0.5, how.dtype)] if how.between == "Mul" else []))


def packed(**how: object) -> onnx.ModelProto:
    """x [2, 11, 64] to heads of 16 numbers; the outputs are y0 and on."""
    asked, writer = Packed(**how), _Writer()
    parts = _cut(writer, asked, _product(writer, asked))
    outputs = _end(writer, asked, parts)
    for index, name in enumerate(outputs):
        writer.op("Identity", name, makes=f"y{index}")
    kind = models.element_type(asked.dtype)
    names = [f"y{index}" for index in range(len(outputs))] + ([asked.shown] if asked.shown else [])
    return models.model(
        writer.nodes,
        [models.value("x", kind, [2, TOKENS, WIDTH])],
        [models.value(name, kind, None) for name in names],
        [onnx.numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
        opset=asked.opset,
    )


def _product(writer: _Writer, how: Packed) -> str:
    random, width = np.random.default_rng(0), how.parts * WIDTH
    weight = random.integers(-127, 128, (WIDTH, width)).astype(np.int8)
    scale = random.uniform(0.01, 0.03, width).astype(how.dtype) if how.scales else np.array(0.02, how.dtype)
    data = writer.grid("x", how.dtype)
    real = writer.op("DequantizeLinear", weight, scale, **({"axis": 1} if how.scales else {}))
    bias = np.ones(width, how.dtype)
    if how.op == "MatMul":
        made = writer.op("Add", writer.op("MatMul", data, real), bias, makes="product")
    else:
        flat = writer.op("Reshape", data, np.array([-1, WIDTH]))
        made = writer.op("Reshape", writer.op("Gemm", flat, real, bias), np.array([2, TOKENS, width]), makes="product")
    return writer.some(how, "product", made)


def _cut(writer: _Writer, how: Packed, product: str) -> list[str]:
    parts = range(how.parts)
    if how.cut == "split":
        sizes = [np.array(how.sizes)] if how.sizes else []
        attributes: Attributes = {} if how.sizes else {"num_outputs": how.parts}
        writer.op("Split", product, *sizes, makes=",".join(f"part{at}" for at in parts), axis=2, **attributes)
        return [_heads(writer, how, f"part{at}") for at in parts]
    if how.cut == "slice":
        for at in parts:
            ends = (np.array([at * WIDTH]), np.array([at * WIDTH + WIDTH]), np.array([2]))
            writer.op("Slice", product, *ends, makes=f"part{at}")
        return [_heads(writer, how, f"part{at}") for at in parts]
    axes = writer.op("Reshape", product, np.array([2, TOKENS, how.parts, HEADS, WIDTH // HEADS]), makes="axes")
    if how.cut == "unbind":
        made = [writer.op("Gather", axes, np.array(at), makes=f"part{at}", axis=2) for at in parts]
        moved = [writer.some(how, "part", one) for one in made]
        return [writer.op("Transpose", one, perm=[0, 2, 1, 3]) for one in moved]
    axes = writer.op("Transpose", axes, makes="turned", perm=[2, 0, 3, 1, 4])
    if how.cut == "gather":
        made = [writer.op("Gather", axes, np.array(at), makes=f"part{at}", axis=0) for at in parts]
    elif how.cut == "splits":
        writer.op("Split", axes, makes=",".join(f"s{at}" for at in parts), axis=0, num_outputs=how.parts)
        made = [writer.op("Squeeze", f"s{at}", np.array([0]), makes=f"part{at}") for at in parts]
    else:
        slices = [writer.op("Slice", axes, np.array([at]), np.array([at + 1]), np.array([0])) for at in parts]
        made = [writer.op("Squeeze", one, np.array([0]), makes=f"part{at}") for at, one in enumerate(slices)]
    return [writer.some(how, "part", one) for one in made]


def _heads(writer: _Writer, how: Packed, part: str) -> str:
    part = writer.some(how, "part", part)
    if how.end in ("given out", "Attention"):
        return part
    moved = writer.op("Reshape", part, np.array([2, TOKENS, HEADS, -1]), makes=f"{part}_moved")
    moved = writer.some(how, "moved", moved)
    return writer.op("Transpose", moved, perm=[0, 2, 1, 3])


def _end(writer: _Writer, how: Packed, parts: list[str]) -> list[str]:
    if how.end in ("heads", "given out"):
        return parts
    query, key, value = parts[:3]
    if how.end == "Attention":
        return [writer.op("Attention", *parts, q_num_heads=HEADS, kv_num_heads=HEADS)]
    if how.end == "attend":
        turned = writer.op("Transpose", key, perm=[0, 1, 3, 2])
    else:
        flat = writer.op("Reshape", key, np.array([-1, TOKENS, WIDTH // HEADS]))
        turned = writer.op("Transpose", flat, perm=[0, 2, 1])
        turned = writer.op("Reshape", turned, np.array([2, HEADS, WIDTH // HEADS, TOKENS]))
        turned = writer.op("Mul", turned, np.array(0.5, how.dtype))
    scores = writer.op("Mul", writer.op("MatMul", query, turned), np.array(0.25, how.dtype))
    return [writer.op("MatMul", writer.op("Softmax", scores, axis=-1), value)]


_WAYS: dict[str, Packed] = {
    "split, attended": Packed(),
    "split to heads": Packed(end="heads"),
    "split, gemm": Packed(op="Gemm"),
    "split, float16": Packed(dtype=np.float16),
    "split, part given out": Packed(end="heads", shown="part0"),
    "slices": Packed(cut="slice"),
    "unbound": Packed(cut="unbind", end="heads"),
    "gathered behind a Transpose": Packed(cut="gather"),
    "gathered behind a Transpose, gemm": Packed(cut="gather", op="Gemm"),
    "sliced behind a Transpose, queries scaled": Packed(cut="slices", between="Mul", which=(0,)),
    "split behind a Transpose": Packed(cut="splits"),
    "read by Attention": Packed(end="Attention", dtype=np.float16, opset=23),
}
_CLOSE: dict[str, Packed] = {
    **{f"{name}, one scale": replace(how, scales=False) for name, how in _WAYS.items() if "," not in name},
    "in two": Packed(parts=2, end="heads"),
    "in four": Packed(parts=4, end="heads"),
    "in unequal parts": Packed(end="heads", sizes=(96, 48, 48)),
    "activated": Packed(between="Relu", at="product"),
    "scaled": Packed(between="Mul", at="product"),
    "scaled, gathered": Packed(cut="gather", between="Mul", at="product"),
    "parts activated": Packed(between="Relu"),
    "parts scaled": Packed(between="Mul"),
    "parts activated, gathered": Packed(cut="gather", between="Relu"),
    "parts activated, unbound": Packed(cut="unbind", between="Relu"),
    "parts quantized": Packed(between="Grid", which=(0, 1)),
    "parts quantized, gathered": Packed(cut="gather", between="Grid", which=(0, 1)),
    "scaled between Reshape and Transpose": Packed(between="Mul", at="moved"),
    "product given out": Packed(shown="product"),
    "moved part given out": Packed(shown="part0_moved"),
    "Transpose given out": Packed(cut="gather", shown="turned"),
    "gathered part given out": Packed(cut="gather", shown="part0"),
    "keys scaled, gathered": Packed(cut="gather", between="Mul", which=(1,)),
    "values activated, gathered": Packed(cut="gather", between="Relu", which=(2,)),
    "no heads": Packed(end="given out"),
    "gathered, not attended": Packed(cut="gather", end="heads"),
    "gathered, as torch attends": Packed(cut="gather", end="attend reshaped"),
}


def _makers(ways: dict[str, Packed]) -> dict[str, Callable[[], onnx.ModelProto]]:
    return {name: partial(packed, **vars(how)) for name, how in ways.items()}


MATCHED, MISSED = _makers(_WAYS), _makers(_CLOSE)
