"""Says before a build what TensorRT would refuse, change without a word, or slow down. Needs no TensorRT.

Rules are data, one file to a family. They were written from what TensorRT-RTX 1.7 does with constructs and with the
models of onnx's backend tests; what no rule knows passes.
"""

from secateur.backends.tensorrt.lint.finding import Finding, Severity, Source
from secateur.backends.tensorrt.lint.linter import lint
from secateur.backends.tensorrt.lint.site import Target
from secateur.backends.tensorrt.lint.targets import parse_target

__all__ = ["Finding", "Severity", "Source", "Target", "lint", "parse_target"]
