"""Which operator came to be written otherwise, or to mean something else, in which opset."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from secateur.ir import Op
from secateur.passes.opset import flattened, resized, written
from secateur.passes.opset.change import Change, Place

_REDUCTIONS = tuple(f"Reduce{name}" for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())


def _batched(place: Place, op: Op) -> str | None:
    return "it went over a batch of sequences before opset 9"


def _regrouped(place: Place, op: Op) -> str | None:
    return "its scale is one number for each group before opset 21, for each channel after"


def _moved_axis(place: Place, op: Op) -> str | None:
    return "its axis moved from an attribute to an input"


def _odd_pads(place: Place, op: Op) -> str | None:
    """Which side gets the odd one of automatic pads was turned around in the text of opset 11."""
    automatic = op.attribute("auto_pad", "NOTSET").startswith("SAME") or op.attribute("output_shape") is not None
    return "pads that follow from the size of its output were defined otherwise before opset 11" if automatic else None


_FLATTENED = Change(13, flattened.flatten, flattened.look_at_shape)

CHANGES: Mapping[str, tuple[Change, ...]] = MappingProxyType(
    {
        **dict.fromkeys(_REDUCTIONS, (Change(18, written.move_axes),)),
        **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), (Change(13, written.move_axes),)),
        **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (_FLATTENED,)),
        "BatchNormalization": (
            Change(9, written.forget_spatial, written.own_statistics),
            Change(14, refusal=written.more_outputs),
        ),
        "Clip": (Change(11, written.move_bounds, written.unknown_bounds),),
        "ConvTranspose": (Change(11, refusal=_odd_pads),),
        "DFT": (Change(20, refusal=_moved_axis),),
        "Dropout": (Change(10, written.forget_mask_type, written.read_mask), Change(12, written.move_ratio)),
        "GridSample": (Change(20, written.rename_mode),),
        "GroupNormalization": (Change(21, refusal=_regrouped),),
        "Pad": (Change(11, written.move_pads, written.unknown_padding),),
        "Resize": (
            Change(11, resized.place_pixels, resized.both_ways),
            Change(13, resized.leave_out_empty, resized.dropped_mode),
        ),
        "Scan": (Change(9, refusal=_batched),),
        "Scatter": (Change(11, written.call_it_scatter_elements),),
        "Slice": (Change(10, written.move_range),),
        "Split": (Change(13, written.move_split), Change(18, written.count_outputs)),
        "TopK": (Change(10, written.move_count),),
        "Upsample": (Change(10, resized.upsample),),
    }
)
"""By operator, its changes in order.

What onnxruntime computed alike all along is left alone: OneHot takes negative indices from the end since opset 11, and
onnxruntime did so before, too.
"""
