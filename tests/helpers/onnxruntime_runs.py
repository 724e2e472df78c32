"""Running model files with onnxruntime on the inputs that come with test data, and comparing outputs bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

_NAMES = {"float": "float32", "double": "float64"}


def session(model: bytes | str | Path, *, optimise: bool = False) -> onnxruntime.InferenceSession:
    """A session that computes the same every time: one thread, fixed seed, by default no graph optimisation."""
    onnxruntime.set_seed(0)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def stored_feeds(session: onnxruntime.InferenceSession, folder: Path) -> dict[str, Any]:
    """The inputs in a `test_data_set_N` folder, by name."""
    feeds: dict[str, Any] = {}
    for number, wanted in enumerate(session.get_inputs()):
        file = folder / f"input_{number}.pb"
        if file.is_file():
            feeds[wanted.name] = _stored(file.read_bytes(), wanted.type)
    return feeds


def _stored(content: bytes, kind: str) -> Any:
    if kind.startswith("optional"):
        optional = onnx.OptionalProto.FromString(content)
        return numpy_helper.to_optional(optional)
    if kind.startswith("seq"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    return numpy_helper.to_array(onnx.TensorProto.FromString(content))


def random_feeds(session: onnxruntime.InferenceSession, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Random inputs of the declared types; unknown sizes are 2, or what `sizes` says for a symbol or `input:axis`."""
    random, feeds = np.random.default_rng(0), {}
    for wanted in session.get_inputs():
        name = wanted.type.removeprefix("tensor(").removesuffix(")")
        shape = [
            dim if isinstance(dim, int) else (sizes or {}).get(f"{wanted.name}:{axis}", (sizes or {}).get(str(dim), 2))
            for axis, dim in enumerate(wanted.shape)
        ]
        dtype = np.dtype(_NAMES.get(name, name))
        numbers = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 3, shape)
        feeds[wanted.name] = numbers.astype(dtype)
    return feeds


def same(one: Any, other: Any) -> bool:
    """Equal bit for bit: arrays, and lists and dicts of them."""
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        if one.dtype == object:
            return bool(np.array_equal(one, other))
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return type(one) is type(other) and (one == other or one != one)
