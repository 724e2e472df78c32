"""Builds TensorRT engines from ONNX files, with `tensorrt` (10, 11) or `tensorrt_rtx`, which needs no GPU to build."""

from secateur.backends.tensorrt.engine import Origin, build
from secateur.backends.tensorrt.errors import (
    BackendUnavailable,
    BuildCancelled,
    BuildFailed,
    PluginError,
    PrecisionNotHonoured,
    ProfileError,
    ShapeError,
    SparsityNotHonoured,
    TargetError,
    TensorRTError,
    UnsupportedModel,
)
from secateur.backends.tensorrt.layers import Layer, LayerTensor, kernels_by_node
from secateur.backends.tensorrt.messages import Message, Refusal
from secateur.backends.tensorrt.metadata import kernel_types, metadata_path
from secateur.backends.tensorrt.network import supports
from secateur.backends.tensorrt.options import BuildOptions
from secateur.backends.tensorrt.profiles import Profile, ShapeRange, parse_shape
from secateur.backends.tensorrt.progress import Progress
from secateur.backends.tensorrt.quantized import NodePrecision, Precision
from secateur.backends.tensorrt.report import BuildReport
from secateur.backends.tensorrt.shim import Trt, load
from secateur.backends.tensorrt.sparsity import UNKNOWN, WeightVerdict

__all__ = [
    "UNKNOWN",
    "BackendUnavailable",
    "BuildCancelled",
    "BuildFailed",
    "BuildOptions",
    "BuildReport",
    "Layer",
    "LayerTensor",
    "Message",
    "NodePrecision",
    "Origin",
    "PluginError",
    "Precision",
    "PrecisionNotHonoured",
    "Profile",
    "ProfileError",
    "Progress",
    "Refusal",
    "ShapeError",
    "ShapeRange",
    "SparsityNotHonoured",
    "TargetError",
    "TensorRTError",
    "Trt",
    "UnsupportedModel",
    "WeightVerdict",
    "build",
    "kernel_types",
    "kernels_by_node",
    "load",
    "metadata_path",
    "parse_shape",
    "supports",
]
