"""What the builder's refusals mean: it returns no engine, and all it says why is in its log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from secateur.backends.tensorrt import messages
from secateur.backends.tensorrt.errors import BuildFailed, TargetError, TensorRTError
from secateur.backends.tensorrt.layers import onnx_nodes
from secateur.backends.tensorrt.messages import Refusal
from secateur.backends.tensorrt.network import Session, unsupported

_DATA_TYPES = re.compile(
    r"Cannot compile for target\(s\) (?P<targets>[^;]*?), because .* datatypes: (?P<types>[\w, ]+)"
)
_TURING = re.compile(r"Cannot compile operation '(?P<op>.*?)' for \w+ \(SM(?P<sm>\d+)\): (?P<why>[^;]*)")
_WORKSPACE = re.compile(r"within workspace limit")

# The builder's word for a type -> its usual name, and the lowest compute capability with hardware for it.
_LOWEST: dict[str, tuple[str, str]] = {
    "b16": ("bfloat16", "8.0"),
    "int4": ("int4", "8.0"),
    "fp8_e4m3": ("float8 (E4M3)", "8.9"),
    "fp4_e2m1": ("float4 (E2M1)", "12.0"),
}


def build_failure(session: Session, path: Path) -> TensorRTError:
    """The error that says why the builder gave no engine for the model."""
    reasons = messages.errors(session.log)
    text = "; ".join(reasons)
    for explain in (_data_types, _turing):
        error = explain(path, text, session)
        if error is not None:
            return error
    refused = tuple(_no_kernel(text, session.network))
    if refused:
        return unsupported(session, path, refused)
    return BuildFailed(
        f"{session.trt.flavor} {session.trt.version} could not build {path}: {text or 'it gave no reason'}",
        hint="allow more workspace" if _WORKSPACE.search(text) else None,
        log=session.log,
    )


def _data_types(path: Path, text: str, session: Session) -> TargetError | None:
    match = _DATA_TYPES.search(text)
    if not match:
        return None
    words = [word.strip() for word in match["types"].split(",")]
    names = ", ".join(_LOWEST[word][0] if word in _LOWEST else word for word in words)
    targets = ", ".join(_dotted(target.strip().removeprefix("sm")) for target in match["targets"].split(","))
    lowest = max((_LOWEST[word][1] for word in words if word in _LOWEST), key=float, default=None)
    return TargetError(
        f"{path} computes in {names}, for which there is no hardware at compute capability {targets}",
        hint=f"build for {lowest} or newer only, or keep the model in another type" if lowest else None,
        log=session.log,
    )


def _turing(path: Path, text: str, session: Session) -> TargetError | None:
    match = _TURING.search(text)
    if not match:
        return None
    return TargetError(
        f"{path}: node {match['op']!r} cannot be built for compute capability {_dotted(match['sm'])}: {match['why']}",
        hint="build for newer targets only, or cast the model to float16",
        log=session.log,
    )


def _dotted(digits: str) -> str:
    """The digits of "sm89" -> "8.9"."""
    return f"{digits[:-1]}.{digits[-1:]}"


def _no_kernel(text: str, network: Any) -> Iterator[Refusal]:
    """The ONNX nodes behind the layers that nothing implements."""
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        if f"{layer.name} has no runners that implement it" in text:
            node = next(iter(onnx_nodes(layer.metadata)), layer.name)
            yield Refusal("NO_KERNEL", layer.type.name, node, "TensorRT has no kernel for it")
