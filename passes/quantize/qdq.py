"""The `quantize` pass: explicit Q/DQ around weighted ops, in the form that onnxruntime and TensorRT take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from secateur.calib.capture import CaptureOptions, capture
from secateur.calib.ranges import Range, amax_max
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.tensor import Tensor
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.manifest import Scale
from secateur.passes.quantize.grid import along, quantize_weight, symmetric_scale


@dataclass(frozen=True)
class Quantize(Pass):
    """Puts the data inputs and weights of Conv, ConvTranspose, Gemm and MatMul on a symmetric integer grid.

    x becomes DQ(Q(x)) with one scale for the tensor, max |x| over the calibration data / 127; w is stored as integers
    behind a DQ with one scale for each output channel (Jacob et al. 2018, "Quantization and Training of Neural Networks
    for Efficient Integer-Arithmetic-Only Inference", section 2, without zero points; Wu et al. 2020, "Integer
    Quantization for Deep Learning Inference", section 3). Biases stay float, zero points are 0, so zeros stay zero and
    a 2:4 weight stays 2:4. A tensor that several ops read gets one Q/DQ pair.
    """

    name: ClassVar[str] = "quantize"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.DTYPE | Facet.SCHEME
    effect: ClassVar[Effect] = Effect.LOSSY

    format: Literal["int8"] = "int8"
    """The number format of weights and activations."""
    calibration: Literal["max"] = "max"
    """How the range of an activation is chosen."""

    def run(self, graph: Graph, context: Context) -> int:
        """Quantizes every weighted op that fits; returns how many."""
        opset = graph.header.opset() or 0
        known = context.facts.get(known_fact)
        uses = [use for use in weight_uses(known) if not _is_quantized(use) and self._fits(use, graph, context)]
        if uses and opset < 13:
            raise RefusedError(
                f"the model imports opset {opset}; a scale for each channel needs opset 13 or later",
                hint="convert the model with onnx.version_converter, or export it anew",
            )
        amax = self._ranges(graph, {use.data for use in uses}, context) if uses else {}
        data: dict[Value, Value] = {}
        weights: dict[tuple[Value, int], Value] = {}
        changed = 0
        for use in uses:
            if not context.allow("quantize", use.op):
                continue
            if use.data not in data:
                data[use.data] = _quantize_data(graph, use, amax[use.data.name])
            if (use.weight, use.produced) not in weights:
                weights[use.weight, use.produced] = _quantize_weight(graph, use, context)
            ports = list(use.op.inputs)
            ports[ports.index(use.data)] = data[use.data]
            ports[use.port] = weights[use.weight, use.produced]
            graph.set_inputs(use.op, ports)
            changed += 1
        done = dict.fromkeys(weight for weight, _ in weights)
        graph.remove(*(weight for weight in done if weight in graph and not graph.is_used(weight)))
        return changed

    def _fits(self, use: WeightUse, graph: Graph, context: Context) -> bool:
        reason = None
        if not use.is_plain:
            reason = f"{use.op} reads it stacked, or behind other ops"
        elif use.tensor.dtype.short not in ("f32", "f16", "bf16"):
            reason = f"it is {use.tensor.dtype.short}"
        elif use.is_transposed:
            reason = f"TensorRT runs a quantized {use.op.op_type} in float all the same"
        elif graph.constant(use.data) is not None:
            reason = "its data is a constant too"
        elif not bool(np.isfinite(use.tensor.numpy().astype(np.float32)).all()):
            reason = "it holds NaN or infinity"
        if reason:
            context.note(f"{use.weight.name} stays in float: {reason}")
        return reason is None

    def _ranges(self, graph: Graph, values: Iterable[Value], context: Context) -> dict[str, float]:
        ranges = {name: Range() for name in sorted(value.name for value in values)}
        runner, source = context.needed_runner("quantize"), context.needed_source("quantize")
        watchers = {name: [one] for name, one in ranges.items()}
        capture(graph, source, runner, watchers, CaptureOptions(progress=context.progress))
        return {name: float(amax_max(one)) for name, one in ranges.items()}


def _is_quantized(use: WeightUse) -> bool:
    return any(op.op_type in ("QuantizeLinear", "DequantizeLinear") for op in use.chain)


def _quantize_data(graph: Graph, use: WeightUse, amax: float) -> Value:
    """`data -> Q -> DQ`, the scale in the type of the data."""
    name = use.data.name
    scale = Tensor(symmetric_scale(amax, use.tensor.dtype.numpy))
    parameters = [
        graph.add_constant(f"{name}_scale", scale),
        graph.add_constant(f"{name}_zero_point", Tensor(np.zeros((), np.int8))),
    ]
    quantized = emit(graph, "QuantizeLinear", [use.data, *parameters], outputs=[f"{name}_quantized"])
    return emit(graph, "DequantizeLinear", [quantized.output, *parameters], outputs=[f"{name}_dequantized"]).output


def _quantize_weight(graph: Graph, use: WeightUse, context: Context) -> Value:
    """Integers behind a DQ with one scale for each output channel."""
    name, dense = use.weight.name, use.tensor.numpy()
    codes, scales = quantize_weight(dense, use.produced)
    stored = [
        graph.add_constant(f"{name}_quantized", Tensor(codes)),
        graph.add_constant(f"{name}_scale", Tensor(scales)),
        graph.add_constant(f"{name}_zero_point", Tensor(np.zeros(scales.shape, np.int8))),
    ]
    if (scheme := SparsityScheme.of(use.weight)) is not None:
        scheme.mark(stored[0])
    restored = emit(graph, "DequantizeLinear", stored, {"axis": use.produced}, outputs=[f"{name}_dequantized"])
    error = dense.astype(np.float64) - codes * along(scales.astype(np.float64), use.produced, dense.ndim)
    energy, noise = float(np.sum(dense.astype(np.float64) ** 2)), float(np.sum(error**2))
    decibel = 10 * float(np.log10(energy / noise)) if noise and energy else None
    context.manifest.scale(name, Scale("int8", scales, axis=use.produced))
    context.manifest.exact = False
    context.row(weight=name, format="int8", axis=use.produced, sqnr_db=decibel)
    return restored.output
