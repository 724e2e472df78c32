"""Numbers that 16 bits do not hold: too large, or so small that they become zero."""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np

from secateur.calib.capture import CaptureOptions, capture
from secateur.calib.ranges import Range
from secateur.ir import DataType, Graph, Op, Tensor
from secateur.ir.build import add_constant, emit
from secateur.ir.errors import BackendError
from secateur.passes.context import Context

MARGIN = 2.0
"""How far below the end of the range activations of the calibration data must stay: others will be larger."""


def misfit(tensor: Tensor, dtype: DataType, *, scale: bool = False) -> str | None:
    """Why a float32 constant must not be converted; None where it may.

    A scale must keep most of its bits, each of its numbers for itself; of other constants, small ones beside large
    ones may become zero.
    """
    sizes = np.abs(tensor.numpy())
    limits = ml_dtypes.finfo(dtype.numpy)
    finite = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not finite.size:
        return None
    if finite.max() > float(limits.max):
        return f"a constant of {finite.max():.3g} is beyond the range of {dtype.short}"
    if scale and finite.min() < float(limits.tiny) / 16:
        return f"a scale of {finite.min():.3g} loses its bits in {dtype.short}"
    if finite.max() < float(limits.tiny):
        return f"a constant of {finite.max():.3g} becomes zero in {dtype.short}, or nearly so"
    return None


def is_scale(op: Op, port: int) -> bool:
    """Whether an input is the scale of a quantizer."""
    return port == 1 and op.op_type in ("QuantizeLinear", "DequantizeLinear")


def magnitudes(graph: Graph, names: Iterable[str], context: Context) -> dict[str, float]:
    """The largest finite magnitude that each value takes over the calibration data; empty without data or runtime."""
    wanted = sorted(names)
    if context.source is None or context.runner is None or not wanted:
        return {}
    probes, found = graph.clone(), {name: Range() for name in wanted}
    zero = add_constant(probes, "probe_zero", np.zeros((), np.float32))
    watchers = {}
    for name in wanted:
        value = probes[name]
        # Infinity is there in 16 bits too, as in masks.
        finite = emit(probes, "Where", [emit(probes, "IsInf", [value]).output, zero, value]).output
        size = emit(
            probes, "ReduceMax", [emit(probes, "Abs", [finite]).output], {"keepdims": 0}, outputs=["probe"]
        ).output
        watchers[size.name] = [found[name]]
    try:
        capture(probes, context.source, context.runner, watchers, CaptureOptions(progress=context.progress))
    except BackendError as error:
        context.note(f"the ranges of activations are not known: {error.message}")
        return {}
    return {name: float(one.absmax) for name, one in found.items()}
