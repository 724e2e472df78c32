"""Whether what the model quantizes is computed on quantized numbers.

The builder may dequantize first and compute in float instead, and says nothing of it: for a pattern that it does not
know, or because one of the targets has no fitting kernel (7.5 among them takes INT8 from all, in TensorRT-RTX 1.7).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from secateur.backends.tensorrt.layers import Layer, kernels_by_node, onnx_nodes

_CONTRACTIONS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
# Layers that the builder moves a DequantizeLinear through.
_TRANSPARENT = ("CAST", "CONCATENATION", "IDENTITY", "POOLING", "SHUFFLE", "SQUEEZE", "UNSQUEEZE")
# As NVIDIA spells them, from Int8 over FP8 to FP4E2M1; Int32 and Int64 are indices.
_QUANTIZED = ("Int8", "Int4", "FP8", "FP4", "INT8", "INT4")


def quantized_nodes(network: Any) -> tuple[str, ...]:
    """The ONNX nodes that contract two dequantized operands, in the network's order, which is topological."""
    dequantized: set[str] = set()
    found: dict[str, None] = {}
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        inputs = (layer.get_input(index) for index in range(layer.num_inputs))
        names = [tensor.name for tensor in inputs if tensor]
        kind = layer.type.name
        # All but a concatenation have one data operand; the others are axes or a shape.
        operands = names if kind == "CONCATENATION" else names[:1]
        if kind == "DEQUANTIZE" or (kind in _TRANSPARENT and dequantized.issuperset(operands)):
            dequantized.update(layer.get_output(index).name for index in range(layer.num_outputs))
        elif kind in _CONTRACTIONS and dequantized.issuperset(names[:2]):
            found[next(iter(onnx_nodes(layer.metadata)), layer.name)] = None
    return tuple(found)


def computed_in_float(nodes: Iterable[str], layers: Iterable[Layer]) -> tuple[str, ...]:
    """Those of the nodes of which no kernel reads a quantized activation. A node that no kernel names is among them."""
    kernels = kernels_by_node(layers)
    return tuple(node for node in nodes if not any(map(_reads_quantized, kernels.get(node, ()))))


def _reads_quantized(layer: Layer) -> bool:
    return any(tensor.dtype.startswith(_QUANTIZED) for tensor in layer.inputs)
