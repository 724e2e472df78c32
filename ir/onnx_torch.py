"""PyTorch modules in: exported by torch's own exporter (`torch.export`), then read as any ONNX model."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secateur.ir.errors import BackendError
from secateur.ir.graph import Graph
from secateur.ir.onnx_read import from_proto

if TYPE_CHECKING:
    import torch

_HINT = "pip install 'secateur[torch]'"


def from_torch(
    module: torch.nn.Module,
    example: tuple[Any, ...] | Mapping[str, Any],
    *,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
) -> Graph:
    """A PyTorch module, exported in evaluation mode, becomes a Graph.

    Args:
        module: left as it is, its training mode included.
        example: positional arguments as a tuple, or keyword arguments as a mapping; their shapes become the model's
            shapes where `dynamic_shapes` does not say otherwise.
        dynamic_shapes: which axes may change, as `torch.export.export` takes it:
            `({0: torch.export.Dim("batch")},)` for the first axis of the only argument.
        input_names, output_names: names for the interface; by default the exporter's.
        opset: version of ONNX's default domain; by default the exporter's.

    Raises:
        BackendError: torch or onnxscript is not installed, or the module cannot be exported; torch says why.
    """
    torch = _torch()
    named = isinstance(example, Mapping)
    with _evaluating(module), _quiet():
        try:
            program = torch.onnx.export(
                module,
                () if named else tuple(example),
                kwargs=dict(example) if isinstance(example, Mapping) else None,
                dynamic_shapes=dynamic_shapes,
                input_names=input_names,
                output_names=output_names,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise BackendError(
                f"torch cannot export {type(module).__name__}: {reason}",
                hint="`torch.export.export(module, example)` shows what stands in the way",
            ) from error
    return from_proto(program.model_proto)


def _torch() -> Any:
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise BackendError(f"{package} is not installed, and PyTorch modules cannot be read without it", hint=_HINT)
    import torch

    return torch


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    modes = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for inner, mode in modes:
            inner.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's warnings are about its own insides; what matters comes as an error."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
