"""`legalize` and its rewrites, one file each: what TensorRT refuses only because of how it is written."""

from secateur.passes.legalize.legalize import Legalize

__all__ = ["Legalize"]
