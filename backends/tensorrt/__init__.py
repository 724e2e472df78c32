"""Builds TensorRT engines from ONNX files, with `tensorrt` (10, 11) or `tensorrt_rtx`, which needs no GPU to build."""

from secateur.backends.tensorrt.engine import build
from secateur.backends.tensorrt.errors import (
    BackendUnavailable,
    BuildCancelled,
    BuildFailed,
    ProfileError,
    TargetError,
    TensorRTError,
    UnsupportedModel,
)
from secateur.backends.tensorrt.layers import Layer, LayerTensor, kernels_by_node
from secateur.backends.tensorrt.messages import Message, Refusal
from secateur.backends.tensorrt.network import supports
from secateur.backends.tensorrt.options import BuildOptions
from secateur.backends.tensorrt.profiles import Profile, ShapeRange, parse_shape
from secateur.backends.tensorrt.progress import Progress
from secateur.backends.tensorrt.report import BuildReport
from secateur.backends.tensorrt.shim import Trt, load

__all__ = [
    "BackendUnavailable",
    "BuildCancelled",
    "BuildFailed",
    "BuildOptions",
    "BuildReport",
    "Layer",
    "LayerTensor",
    "Message",
    "Profile",
    "ProfileError",
    "Progress",
    "Refusal",
    "ShapeRange",
    "TargetError",
    "TensorRTError",
    "Trt",
    "UnsupportedModel",
    "build",
    "kernels_by_node",
    "load",
    "parse_shape",
    "supports",
]
