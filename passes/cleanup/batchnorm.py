"""`fold-batchnorm`: a normalisation with fixed statistics is part of the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir import Graph, Tensor, Value
from secateur.ir.rules.known import Known
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.pattern import Match, OpPattern, Pattern, constant, maybe, op, value
from secateur.passes.rewriter import Rewriter, Rule, apply_rules

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """`BatchNormalization(layer(x))` becomes one layer: `w' = w * f`, `b' = (b - mean) * f + beta`, along its outputs.

    With `f = gamma / sqrt(variance + epsilon)`, in float64 (Jacob et al., 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2). Layers are Conv, ConvTranspose, Gemm and
    MatMul with or without Add, whose output nobody else reads. A weight that others read too is copied. What would
    overflow the weight's element type is refused.
    """

    name: ClassVar[str] = "fold-batchnorm"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SHAPE | Facet.DTYPE
    effect: ClassVar[Effect] = Effect.ROUNDED
    tolerance: ClassVar[float] = 1e-5

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many normalisations went."""
        outcome = apply_rules(graph, _rules(context.facts.get(known)), context)
        outcome.record(context)
        return outcome.rewrites


def _normalized(layer: Pattern) -> OpPattern:
    statistics = (constant(name) for name in ("gamma", "beta", "mean", "variance"))
    return op("BatchNormalization", layer, *statistics, name="norm", attributes={"training_mode": lambda on: not on})


def _rules(facts: Known) -> list[Rule]:
    weight, bias = constant("weight"), maybe(value("bias"))
    product = op("MatMul", value("x"), weight, name="layer")

    def check_product(match: Match) -> str | None:
        if facts.rank(match["x"]) != 2 or len(match.tensor("weight").shape) != 2:
            return "the product is not known to be of rank 2, so the normalisation runs along another axis"
        return _check(match)

    return [
        Rule("conv", _normalized(op("Conv|ConvTranspose", value("x"), weight, bias, name="layer")), _fold, _check),
        Rule("gemm", _normalized(op("Gemm", value("x"), weight, bias, name="layer")), _fold, _check),
        Rule("matmul-add", _normalized(op("Add", product, value("bias"))), _fold_product, check_product),
        Rule("matmul", _normalized(product), _fold_product, check_product),
    ]


def _factors(match: Match) -> tuple[Array, Array]:
    """f and the shift that the mean and beta make, one each per channel."""
    gamma, beta, mean, variance = (_wide(match.tensor(name)) for name in ("gamma", "beta", "mean", "variance"))
    epsilon = np.float32(match.ops["norm"].attribute("epsilon", 1e-5))  # what ONNX can say, in float64 models too
    factor = gamma / np.sqrt(variance + np.float64(epsilon))
    return factor, beta - mean * factor


def _wide(tensor: Tensor) -> Array:
    return tensor.numpy().astype(np.float64)


def _folded(match: Match) -> tuple[Array, Array]:
    """The new weight and the new bias (one number a channel)."""
    factor, shift = _factors(match)
    layer, weight = match.ops["layer"], _wide(match.tensor("weight"))
    channels = len(factor)
    if layer.op_type == "Conv":
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.op_type == "ConvTranspose":
        groups = layer.attribute("group", 1)
        split = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (split * factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    else:
        scaled = weight * (factor[:, None] if layer.attribute("transB", 0) else factor)
    bias = np.zeros(channels)
    if match.get("bias") is not None:
        bias = np.broadcast_to(_wide(match.tensor("bias")).reshape(-1), channels)
        bias = bias * (layer.attribute("beta", 1.0) if layer.op_type == "Gemm" else 1.0)
    return scaled, bias * factor + shift


def _check(match: Match) -> str | None:
    graph, bias = match.graph, match.get("bias")
    channels = match.tensor("gamma").size
    norm = match.root
    if any(made is not None and graph.is_used(made) for made in norm.outputs[1:]):
        return "the statistics that it gives are read"
    if not norm.attribute("spatial", 1) or ((graph.root.header.opset() or 0) < 7 and not norm.attribute("is_test", 0)):
        return "it normalises with the statistics of each batch, or each position on its own"
    if bias is not None:
        tensor = graph.constant(bias)
        if tensor is None:
            return "the bias is computed at run time"
        if tensor.size not in (1, channels) or (tensor.shape and tensor.shape[-1] != tensor.size):
            return f"a bias of shape {list(tensor.shape)} is not one number for each of {channels} channels"
    dtype = match.tensor("weight").dtype
    with np.errstate(all="ignore"):
        results = _folded(match)
        finite = all(np.isfinite(array.astype(dtype.numpy).astype(np.float64)).all() for array in results)
    return None if finite else f"the folded weight or bias does not fit into {dtype.short}"


def _fold(match: Match, rewriter: Rewriter) -> Value:
    layer = match.ops["layer"]
    weight, bias = _folded(match)
    new_weight = _write(match, rewriter, match["weight"], weight)
    inputs = [match["x"], new_weight, _write_bias(match, rewriter, bias)]
    match.graph.set_inputs(layer, inputs)
    if layer.op_type == "Gemm":
        match.graph.set_attribute(layer, "beta", None)
    rewriter.changed(layer)
    return layer.output


def _fold_product(match: Match, rewriter: Rewriter) -> Value:
    layer = match.ops["layer"]
    weight, bias = _folded(match)
    match.graph.set_inputs(layer, [match["x"], _write(match, rewriter, match["weight"], weight)])
    new_bias = _write_bias(match, rewriter, bias)
    added = match.ops.get("add")
    if added is None:
        return rewriter.emit("Add", [layer.output, new_bias]).output
    match.graph.set_inputs(added, [layer.output, new_bias])
    rewriter.changed(added)
    return added.output


def _write_bias(match: Match, rewriter: Rewriter, bias: Array) -> Value:
    dtype = match.tensor("weight").dtype
    old = match.get("bias")
    if old is not None and match.tensor("bias").shape == bias.shape:
        return _write(match, rewriter, old, bias)
    stem = match["weight"].name.removesuffix(".weight").removesuffix("_weight")
    return rewriter.constant(f"{stem}.bias", bias.astype(dtype.numpy), dtype)


def _write(match: Match, rewriter: Rewriter, old: Value, array: NDArray[Any]) -> Value:
    """The constant changes in place where nobody else reads it; a copy under a new name where somebody does."""
    graph, dtype = match.graph, match.tensor("weight").dtype
    tensor = Tensor(array.astype(dtype.numpy), dtype)
    own = old in graph and graph.is_constant(old) and old not in graph.outputs
    if own and len(graph.uses(old)) == 1 and len(graph.consumers(old)) == 1:
        old.set_const(tensor)
        return old
    return rewriter.constant(old.name, array.astype(dtype.numpy), dtype)
