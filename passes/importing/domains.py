"""QuantizeLinear and DequantizeLinear of other domains become those of ONNX; what is known and left is told."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from secateur.ir import DataType
from secateur.passes.importing.site import Site, import_rules

_SINCE = {DataType.INT16: 21, DataType.UINT16: 21, DataType.INT4: 21, DataType.UINT4: 21}
_OLDEST = 13
FLOAT8_OPSET = 19
"""The first with float8."""


def _standard(site: Site, op_type: str) -> str | None:
    """The opset of ONNX that has these ops for the element types that they are used with."""
    codes = [site.constant(site.input(port)) for port in (0, 2)]
    scale = site.constant(site.input(1))
    needed = max([_OLDEST, *(_SINCE.get(one.dtype, 0) for one in codes if one is not None)])
    if scale is not None and scale.dtype is not DataType.FLOAT32:
        needed = max(needed, 19)
    if (site.part.root.header.opset() or 0) < needed:
        return f"ONNX has it for these types from opset {needed} on"
    site.replace(site.emit(op_type, site.op.inputs, site.op.attributes))
    return None


@import_rules.register("com.microsoft::QuantizeLinear")
def _quantize(site: Site) -> str | None:
    return _standard(site, "QuantizeLinear")


@import_rules.register("com.microsoft::DequantizeLinear")
def _dequantize(site: Site) -> str | None:
    return _standard(site, "DequantizeLinear")


@import_rules.register("trt::TRT_FP8QuantizeLinear")
def _quantize_float8(site: Site) -> str | None:
    """(x, scale), the type of the codes in the name."""
    if (site.part.root.header.opset() or 0) < FLOAT8_OPSET:
        return f"ONNX has float8 from opset {FLOAT8_OPSET} on"
    zero = site.add(f"{site.op.output.name}_zero", np.zeros((), ml_dtypes.float8_e4m3fn))
    site.op.output.type = None
    site.replace(site.emit("QuantizeLinear", [*site.op.inputs[:2], zero]))
    return None


@import_rules.register("trt::TRT_FP8DequantizeLinear")
def _dequantize_float8(site: Site) -> str | None:
    if (site.part.root.header.opset() or 0) < FLOAT8_OPSET:
        return f"ONNX has float8 from opset {FLOAT8_OPSET} on"
    site.replace(site.emit("DequantizeLinear", site.op.inputs[:2]))
    return None


@import_rules.register("com.microsoft::DynamicQuantizeLSTM")
def _lstm(site: Site) -> str | None:
    return "ONNX's LSTM takes its weights in another order, and TensorRT has no quantized LSTM"


@import_rules.register("com.microsoft::QAttention")
def _attention(site: Site) -> str | None:
    return "it is projection, attention and masks in one: export the model without onnxruntime's fusions"


@import_rules.register("com.microsoft::QEmbedLayerNormalization")
def _embedding(site: Site) -> str | None:
    return "it is lookups and a normalisation in one: export the model without onnxruntime's fusions"
