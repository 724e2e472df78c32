"""Q/DQ ops in a graph, in the forms that TensorRT's parser knows, and ONNX wherever it has the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.solvers.grids import FP8, symmetric_scale
from secateur.ir.build import emit
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.weights import WeightUse
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.tensor import Tensor
from secateur.ir.types import DataType, TensorType
from secateur.passes.layers.matrix import read_type
from secateur.passes.quantize.formats import Format
from secateur.passes.quantize.layers import Layer
from secateur.passes.quantize.weights import Coded
from secateur.passes.rewriter import sweep

TENSORRT = "trt"
"""The domain of the operators that TensorRT's parser adds to ONNX."""


@dataclass
class Emitter:
    """Writes quantized data and weights into a graph; a value that several ops read gets one pair for each format.

    Attributes:
        graph: where it is written.
        amax: by the names of values, the largest magnitude that is not clipped.
    """

    graph: Graph
    amax: dict[str, float]
    data: dict[tuple[Value, str], Value] = field(default_factory=dict)

    def read_data(self, op: Op, port: int, wanted: Format, dtype: DataType) -> None:
        """Lets a port of an op read quantized data; scales are of `dtype`."""
        value = op.inputs[port]
        assert value is not None
        if (value, wanted.name) not in self.data:
            quantized = self._dynamic(value, wanted, dtype) if wanted.dynamic else self._static(value, wanted, dtype)
            self.data[value, wanted.name] = quantized
        self._put(op, port, self.data[value, wanted.name])

    def read_weight(self, layer: Layer, coded: Coded) -> None:
        """Lets the ops of a layer read its weight as codes behind a DequantizeLinear."""
        made = self._weight(layer, coded)
        for use in layer.uses:
            self._put(use.op, use.port, self._through_chain(use, made))

    def _put(self, op: Op, port: int, value: Value) -> None:
        self.graph.set_inputs(op, [value if index == port else old for index, old in enumerate(op.inputs)])

    def _static(self, value: Value, wanted: Format, dtype: DataType) -> Value:
        """`value -> Q -> DQ` with one scale from calibration."""
        grid, name = wanted.data, value.name
        assert grid is not None
        scale = symmetric_scale(self.amax[name], dtype.numpy, grid.largest)
        parameters = [
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", np.zeros((), grid.dtype)),
        ]
        codes = emit(self.graph, "QuantizeLinear", [value, *parameters], outputs=[f"{name}_quantized"]).output
        return emit(self.graph, "DequantizeLinear", [codes, *parameters], outputs=[f"{name}_dequantized"]).output

    def _dynamic(self, value: Value, wanted: Format, dtype: DataType) -> Value:
        """Blocks along the last axis, each scaled as the model runs."""
        how = _Blocks(value.name, -1, wanted.block or 0, dtype)
        outputs = [f"{how.name}_quantized", f"{how.name}_scale"]
        if wanted.levels == "power":
            attributes = {**how.attributes, "output_dtype": int(DataType.FLOAT8E4M3FN)}
            codes, scale = emit(self.graph, wanted.dynamic, [value], attributes, outputs=outputs).outputs
            return _typed(self._from_powers(codes, scale, how), value, dtype)
        # All blocks together have one scale, so that those of the blocks fit E4M3.
        whole = symmetric_scale(self.amax[how.name], np.float32, wanted.grid.largest * FP8.largest)
        attributes = {**how.attributes, "scale_type": int(DataType.FLOAT8E4M3FN)}
        read = [value, self._constant(f"{how.name}_tensor_scale", whole)]
        codes, scale = emit(self.graph, wanted.dynamic, read, attributes, outputs=outputs).outputs
        return _typed(self._from_two_levels(codes, scale, whole, how), value, dtype)

    def _weight(self, layer: Layer, coded: Coded) -> Value:
        dtype = read_type(self.graph, layer.use)
        how = _Blocks(layer.weight.name, layer.use.contracted, layer.block or 0, dtype)
        codes = self._constant(f"{how.name}_quantized", coded.codes)
        if (scheme := SparsityScheme.of(layer.weight)) is not None:
            scheme.mark(codes)
        match layer.format.levels:
            case "double":
                assert coded.tensor is not None
                scale = self._constant(f"{how.name}_scale", coded.scale)
                return self._from_two_levels(codes, scale, np.asarray(coded.tensor), how)
            case "power":
                # TensorRT's parser takes powers of two as the bytes that their exponents are.
                scale = self._constant(f"{how.name}_scale", coded.scale.view(np.uint8))
                return _typed(self._from_powers(codes, scale, how), layer.weight, dtype)
        read = [codes, self._constant(f"{how.name}_scale", coded.scale)]
        attributes = how.attributes if layer.block else {} if layer.whole else {"axis": layer.use.produced}
        if not layer.block:
            read.append(self._constant(f"{how.name}_zero_point", np.zeros(coded.scale.shape, coded.codes.dtype)))
        return emit(self.graph, "DequantizeLinear", read, attributes, outputs=[f"{how.name}_dequantized"]).output

    def _from_two_levels(self, codes: Value | None, scale: Value | None, whole: NDArray[Any], how: _Blocks) -> Value:
        """Codes and scales of eight bits, and a scale of all scales, to numbers: two DequantizeLinear."""
        tensor = self._constant(f"{how.name}_scale_scale", whole.astype(how.dtype.numpy))
        made = [f"{how.name}_scale_dequantized"]
        numbers = emit(self.graph, "DequantizeLinear", [scale, tensor], outputs=made).output
        made = [f"{how.name}_dequantized"]
        return emit(self.graph, "DequantizeLinear", [codes, numbers], how.attributes, outputs=made).output

    def _from_powers(self, codes: Value | None, scale: Value | None, how: _Blocks) -> Value:
        attributes = {**how.attributes, "output_dtype": int(how.dtype)}
        made = [f"{how.name}_dequantized"]
        return emit(self.graph, "trt::TRT_MXFP8DequantizeLinear", [codes, scale], attributes, outputs=made).output

    def _through_chain(self, use: WeightUse, made: Value) -> Value:
        """What lies between the stored weight and its op, once more behind the codes."""
        for op in use.chain:
            made = emit(self.graph, op.op_type, [made, *op.inputs[1:]], op.attributes, like=op).output
        return made

    def tidy(self, layers: Sequence[Layer]) -> None:
        """Removes float weights, and what lay behind them, that nobody reads any more."""
        last = {use.chain[-1]: None for layer in layers for use in layer.uses if use.chain}
        sweep(self.graph, *(op for op in last if op in self.graph and not self.graph.is_used(op.output)))
        weights = dict.fromkeys(layer.weight for layer in layers)
        self.graph.remove(*(one for one in weights if one in self.graph and not self.graph.is_used(one)))

    def _constant(self, name: str, array: Any) -> Value:
        return self.graph.add_constant(name, Tensor(np.asarray(array)))


@dataclass(frozen=True)
class _Blocks:
    """What is scaled in blocks: the stem of its names, along which axis, how many each, and the type to read it in."""

    name: str
    axis: int
    size: int
    dtype: DataType

    @property
    def attributes(self) -> dict[str, int]:
        """As ops have it."""
        return {"axis": self.axis, "block_size": self.size}


def _typed(value: Value, like: Value, dtype: DataType) -> Value:
    """Shape inference knows nothing of TensorRT's own operators."""
    value.type = TensorType(dtype, like.type.shape if isinstance(like.type, TensorType) else None)
    return value
