"""Whether what the model quantizes is computed on quantized numbers.

The builder may dequantize first and compute in float instead, and says nothing of it: for a pattern that it does not
know, or because one of the targets has no fitting kernel (7.5 among them takes INT8 from all, in TensorRT-RTX 1.7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from secateur.backends.tensorrt.errors import PrecisionNotHonoured
from secateur.backends.tensorrt.layers import Layer, kernels_by_node, onnx_nodes
from secateur.backends.tensorrt.messages import Message

Precision = Literal["as-quantized", "int8", "fp8", "int4", "fp4"]
"""What may be required: that quantized nodes run in the type they are quantized to; or that, and that it is this."""

_CONTRACTIONS = ("CONVOLUTION", "DECONVOLUTION", "EINSUM", "MATRIX_MULTIPLY")
# Layers that the builder moves a DequantizeLinear through.
_TRANSPARENT = ("CAST", "CONCATENATION", "IDENTITY", "POOLING", "SHUFFLE", "SQUEEZE", "UNSQUEEZE")
_MOST_NAMED = 8

# As NVIDIA spells them, from Int8 over FP8 to FP4E2M1; Int32 and Int64 are indices.
_WORDS = (
    ("Int8", "int8"),
    ("INT8", "int8"),
    ("FP8", "fp8"),
    ("Int4", "int4"),
    ("INT4", "int4"),
    ("FP4", "fp4"),
    ("Float", "fp32"),
    ("Half", "fp16"),
    ("BFloat16", "bf16"),
)
_NARROW = frozenset({"int8", "fp8", "int4", "fp4"})


@dataclass(frozen=True)
class Quantized:
    """An ONNX node that contracts two dequantized operands, and the type that the first of them is quantized to.

    `count` is how many such nodes have the name: ONNX lets several have one, and kernels know no more than that.
    """

    node: str
    wanted: str
    count: int = 1


@dataclass(frozen=True)
class NodePrecision:
    """What a quantized node is computed in.

    `wanted` is the type that the model quantizes to, `found` the one that is multiplied: int8, fp8, int4, fp4, or fp32,
    fp16, bf16 where the builder dequantizes first; None where no kernel names the node. `kernels` are its kernels, each
    with the types that it reads. Of `count` nodes that share a name each must be found.
    """

    node: str
    wanted: str
    found: str | None
    kernels: tuple[str, ...]
    count: int = 1

    @property
    def is_honoured(self) -> bool:
        """Whether it is computed in the type that it is quantized to."""
        return self.found == self.wanted

    def __str__(self) -> str:
        found = f"found {self.found}" if self.found else "found in no kernel"
        shared = f" ({self.count} nodes of this name)" if self.count > 1 else ""
        return f"{self.node}{shared}: wanted {self.wanted}, {found}" + (
            f" ({'; '.join(self.kernels)})" if self.kernels else ""
        )


def quantized_nodes(network: Any) -> tuple[Quantized, ...]:
    """The ONNX nodes that contract two dequantized operands, in the network's order, which is topological."""
    dequantized: dict[str, str] = {}
    found: dict[str, Quantized] = {}
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        inputs = [tensor for tensor in (layer.get_input(index) for index in range(layer.num_inputs)) if tensor]
        names = [tensor.name for tensor in inputs]
        kind = layer.type.name
        # All but a concatenation have one data operand; the others are axes or a shape.
        operands = names if kind == "CONCATENATION" else names[:1]
        if kind == "DEQUANTIZE" or (kind in _TRANSPARENT and all(name in dequantized for name in operands)):
            word = dequantized.get(names[0]) or inputs[0].dtype.name.lower()
            dequantized.update((layer.get_output(index).name, word) for index in range(layer.num_outputs))
        elif kind in _CONTRACTIONS and len(names) > 1 and all(name in dequantized for name in names[:2]):
            node = next(iter(onnx_nodes(layer.metadata)), layer.name)
            count = found[node].count + 1 if node in found else 1
            found[node] = Quantized(node, dequantized[names[0]], count)
    return tuple(found.values())


def precisions(nodes: Iterable[Quantized], layers: Iterable[Layer]) -> tuple[NodePrecision, ...]:
    """What each of the nodes is computed in, by the builder's layer table."""
    kernels = kernels_by_node(layers)
    found = []
    for node in nodes:
        own = kernels.get(node.node, ())
        told = dict.fromkeys(f"{kernel.kind} reads {', '.join(kernel.reads) or 'nothing'}" for kernel in own)
        found.append(NodePrecision(node.node, node.wanted, _computed_in(own, node.count), tuple(told), node.count))
    return tuple(found)


def require(wanted: Precision, nodes: Sequence[NodePrecision] | None, model: str, log: Sequence[Message] = ()) -> None:
    """Passes when all that the model quantizes runs so, in the type that is asked for.

    Raises:
        PrecisionNotHonoured: names each node that does not, what was wanted and what was found; or nothing is known.
    """
    if nodes is None:
        raise PrecisionNotHonoured(
            f"{model}: which types its nodes run in cannot be proven, for the builder wrote no layer table that can be "
            "read",
            (),
            hint="build without requiring a precision",
            log=log,
        )
    if wanted != "as-quantized":
        nodes = [replace(one, wanted=wanted) for one in nodes]
        if not nodes:
            raise PrecisionNotHonoured(
                f"{model}: {wanted} is required, but no node of the model has both operands quantized",
                (),
                hint=f"quantize it, as in quantize{{format={wanted}}}",
                log=log,
            )
    wrong = tuple(one for one in nodes if not one.is_honoured)
    if wrong:
        lines = "".join(f"\n  {one}" for one in wrong[:_MOST_NAMED])
        lines += f"\n  and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise PrecisionNotHonoured(
            f"{model}: {len(wrong)} of {len(nodes)} quantized nodes do not run in the type that is required:{lines}",
            wrong,
            hint="`secateur lint` names constructs that run in float, and what to do about each",
            log=log,
        )


def _computed_in(kernels: Sequence[Layer], count: int) -> str | None:
    """The type that is multiplied, by `count` kernels at least.

    A runtime_fusion may read narrow numbers only to dequantize them, as it does where the scales of a weight vary along
    the axis that is summed over; no kernel multiplies integers then. Other fused kernels (attention in FP8 is a kgen)
    count where nothing else multiplies, if all that they are scaled by are single numbers.
    """
    products = [one for one in kernels if one.contracts and not one.dequantizes]
    fused = [one for one in kernels if not one.contracts and not _scales(one)]
    words = [word for word in map(_narrow, products or fused) if word]
    if words and len(words) >= count:
        return words[0]
    floats = (_float(one) for one in sorted(kernels, key=lambda one: _narrow(one) is not None and not one.dequantizes))
    return next((word for word in floats if word), None)


def _narrow(kernel: Layer) -> str | None:
    """The first narrow type that it reads."""
    words = (_word(tensor.dtype) for tensor in kernel.inputs)
    return next((word for word in words if word in _NARROW), None)


def _scales(kernel: Layer) -> bool:
    """Whether it reads floats of its own, other than single numbers."""
    return any(_word(one.dtype) not in _NARROW and any(size != 1 for size in one.shape) for one in kernel.constants)


def _float(kernel: Layer) -> str | None:
    tensors = (*kernel.inputs, *kernel.outputs, *kernel.constants)
    words = (_word(tensor.dtype) for tensor in tensors)
    return next((word for word in words if word is not None and word not in _NARROW), None)


def _word(dtype: str) -> str | None:
    return next((word for start, word in _WORDS if dtype.startswith(start)), None)
