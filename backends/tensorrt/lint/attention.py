"""The operator Attention: TensorRT-RTX has kernels for some of what ONNX allows, and decomposes nothing."""

from __future__ import annotations

from secateur.backends.tensorrt.lint.finding import Source
from secateur.backends.tensorrt.lint.rule import Rule
from secateur.backends.tensorrt.lint.site import Site
from secateur.ir.types import DataType, Dim

_SMALLEST, _LARGEST = 8, 256
"""Heads of more than 8 and up to 256 numbers have a kernel."""
_PLAIN = "write it as MatMul, Softmax and MatMul: export with an opset below 23"


def _options(site: Site) -> str | None:
    if site.op.attribute("softcap", 0.0):
        return "TensorRT's Attention has no softcap"
    if site.op.attribute("softmax_precision") is not None:
        return "TensorRT's Attention has no softmax_precision"
    if site.has(3) and _is_causal(site):
        return "TensorRT's Attention takes a mask or is causal, not both"
    return None


def _is_causal(site: Site) -> bool:
    return bool(site.op.attribute("is_causal", 0))


def _sizes(site: Site) -> str | None:
    key, key_tokens = _head(site, 1, "kv_num_heads")
    value, _ = _head(site, 2, "kv_num_heads")
    if _differ(key, value):
        return f"its keys have {key} numbers, its values {value}; TensorRT wants them to be the same"
    mask = site.shape(3)
    if mask and isinstance(mask[-1], int) and isinstance(key_tokens, int) and 1 < mask[-1] < key_tokens:
        return f"its mask is for {mask[-1]} keys, but there are {key_tokens}"
    return None


def _kernel(site: Site) -> str | None:
    """A query of one token is computed by other means, in whatever type and size."""
    kind = site.dtype(0)
    head, tokens = _head(site, 0, "q_num_heads")
    if tokens == 1 or site.target.flavor != "tensorrt-rtx" or _options(site) or _sizes(site) or site.outputs > 1:
        return None
    if _is_bare(site):
        return None
    if kind in (DataType.FLOAT32, DataType.FLOAT64):
        return f"there is no kernel for Attention in {kind.short}"
    if isinstance(head, int) and not _SMALLEST < head <= _LARGEST:
        return f"there is no kernel for Attention with heads of {head} numbers"
    return None


def _is_bare(site: Site) -> bool:
    """Heads split off here or by a Transpose, each with keys of its own, no mask: that is matched and decomposed."""
    if site.has(3) or _is_causal(site) or _count(site, 0, "q_num_heads") != _count(site, 1, "kv_num_heads"):
        return False
    makers = [site.producer(port) for port in range(3)]
    if site.rank(0) == 3:
        return not any(site.is_constant(port) for port in range(3))
    return all(made is not None and made.op_type == "Transpose" for made in makers)


def _count(site: Site, port: int, attribute: str) -> Dim:
    shape = site.shape(port)
    return shape[1] if shape is not None and len(shape) == 4 else site.op.attribute(attribute)


def _differ(first: Dim, second: Dim) -> bool:
    return isinstance(first, int) and isinstance(second, int) and first != second


def _head(site: Site, port: int, count: str) -> tuple[Dim, Dim]:
    """(numbers in a head, tokens) of one input, [batch, heads, tokens, numbers] or [batch, tokens, heads * numbers]."""
    shape = site.shape(port)
    if shape is None or len(shape) not in (3, 4):
        return None, None
    if len(shape) == 4:
        return shape[3], shape[2]
    width, heads = shape[2], site.op.attribute(count, 0)
    return (width // heads if isinstance(width, int) and heads else None), shape[1]


RULES: tuple[Rule, ...] = (
    Rule(("Attention",), _options, _PLAIN),
    Rule(("Attention",), _sizes, f"pad to the same size, or {_PLAIN}"),
    Rule(("Attention",), _kernel, f"compute it in float16 or bfloat16, or {_PLAIN}", Source.BUILDER),
)
