"""What a model says as a whole: versions, the types of its inputs, outputs and constants, the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secateur.backends.tensorrt.errors import ProfileError
from secateur.backends.tensorrt.lint.finding import Finding, Severity, Source
from secateur.backends.tensorrt.lint.types import TAKEN
from secateur.backends.tensorrt.profiles import NetworkInput, Profile, check_profiles
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.rules.known import Known
from secateur.ir.types import DataType, TensorType

_OLDEST_OPSET, _NEWEST_OPSET = 7, 28
_OLDEST_IR, _NEWEST_IR = 3, 14


def versions(graph: Graph) -> Iterator[Finding]:
    """Versions of ONNX under which the operators mean something else, or nothing: the parser takes any number."""
    opset, ir_version = graph.header.opset(), graph.header.ir_version
    remedy = f"convert the model to an opset from {_OLDEST_OPSET} to {_NEWEST_OPSET}"
    if opset is not None and not _OLDEST_OPSET <= opset <= _NEWEST_OPSET:
        older = f"opset {opset} has other operators, which TensorRT takes for those of opset {_OLDEST_OPSET} and later"
        newer = f"there is no opset {opset}, and TensorRT builds it all the same"
        yield _model(Severity.CHANGED, older if opset < _OLDEST_OPSET else newer, remedy, Source.ONNX)
    if not _OLDEST_IR <= ir_version <= _NEWEST_IR:
        reason = f"TensorRT reads IR version {ir_version} as if it were one from {_OLDEST_IR} to {_NEWEST_IR}"
        yield _model(Severity.CHANGED, reason, "save the model with a current version of onnx", Source.ONNX)


def emptiness(graph: Graph) -> Iterator[Finding]:
    """A model that computes nothing: the parser takes it."""
    if not graph.outputs:
        yield _model(Severity.REFUSED, "it has no outputs", "export the model again", Source.ONNX)


def value_types(known: Known, *, outermost: bool) -> Iterator[Finding]:
    """Inputs and constants of types that TensorRT does not have, or takes for others."""
    inputs = known.graph.inputs if outermost else ()
    for value in (*inputs, *known.graph.constants()):
        if value not in inputs or value.const is None:
            yield from _value_type(value, constant=value.const is not None)
    for value in known.graph.outputs if outermost else ():
        if value.type is not None and not isinstance(value.type, TensorType):
            yield _value(Severity.REFUSED, value, f"it is a {value.type}, not a tensor", "unpack it into tensors")


def _value_type(value: Value, *, constant: bool) -> Iterator[Finding]:
    if not isinstance(value.type, TensorType):
        if value.type is not None:
            yield _value(Severity.REFUSED, value, f"it is a {value.type}, not a tensor", "unpack it into tensors")
        return
    kind = value.type.dtype
    if kind not in TAKEN and kind is not DataType.UNDEFINED:
        yield _value(Severity.REFUSED, value, f"TensorRT has no type {kind.short}", "store it in another type")
    elif kind is DataType.FLOAT64:
        yield _value(Severity.CHANGED, value, "TensorRT computes float64 in float32", "cast it to float32 yourself")


def sizes(graph: Graph, profiles: Sequence[Profile]) -> Iterator[Finding]:
    """Inputs of no fixed size, and profiles that do not fit; TensorRT ignores names that it does not know."""
    entries = [entry for entry in map(_network_input, graph.inputs) if entry is not None]
    open_ones = [str(entry) for entry in entries if entry.is_dynamic]
    if not profiles:
        if open_ones:
            reason = f"it has inputs of no fixed size: {', '.join(open_ones)}"
            yield _model(Severity.NOTE, reason, "give their sizes to the build (--shape)", Source.PROFILES)
        return
    # What is given for an input whose values are a shape are those values; which inputs are such, only a parser knows.
    shapes = {entry.name for entry in entries if _may_be_shape(entry)}
    sized = [Profile(tuple(one for one in profile.ranges if one.input not in shapes)) for profile in profiles]
    try:
        check_profiles(entries, sized)
    except ProfileError as error:
        remedy = error.hint or "give sizes that fit the model"
        yield Finding(Severity.REFUSED, "", error.input or "", error.message, remedy, Source.PROFILES)


def _network_input(value: Value) -> NetworkInput | None:
    if value.const is not None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    shape = tuple(size if isinstance(size, int) else -1 for size in value.type.shape)
    names = tuple(size if isinstance(size, str) else "" for size in value.type.shape)
    return NetworkInput(value.name, value.type.dtype.name.lower(), shape, names, is_shape=False)


def _may_be_shape(entry: NetworkInput) -> bool:
    return entry.dtype in ("int32", "int64") and len(entry.shape) < 2 and not entry.is_dynamic


def _model(severity: Severity, reason: str, remedy: str, source: Source) -> Finding:
    return Finding(severity, "", "", reason, remedy, source)


def _value(severity: Severity, value: Value, reason: str, remedy: str) -> Finding:
    source = Source.PARSER if severity is Severity.REFUSED else Source.LOG
    return Finding(severity, "", value.name, reason, remedy, source)
