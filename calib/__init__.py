"""What data says of a model: sources of batches, streaming statistics of them, and solvers on those statistics.

The names below load on first use, so that importing the package does not load scipy's linear algebra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.calib.batches import Batch, Source
    from secateur.calib.checks import Signature, check_batch, checked, fixed_batch_size
    from secateur.calib.gram import Gram, Moments
    from secateur.calib.patches import ConvGeometry, sample_positions, update_conv_grams
    from secateur.calib.ranges import Histogram, Range, amax_entropy, amax_max, amax_mse, amax_percentile
    from secateur.calib.sources import open_source

__all__ = [
    "Batch",
    "ConvGeometry",
    "Gram",
    "Histogram",
    "Moments",
    "Range",
    "Signature",
    "Source",
    "amax_entropy",
    "amax_max",
    "amax_mse",
    "amax_percentile",
    "check_batch",
    "checked",
    "fixed_batch_size",
    "open_source",
    "sample_positions",
    "update_conv_grams",
]

#: Where the names live; what loads fast comes first.
_MODULES = ("batches", "sources", "checks", "ranges", "gram", "patches")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in (import_module(f"secateur.calib.{home}") for home in _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
