"""What devices can compute, by compute capability: a model with a type that one of its targets lacks is refused."""

from __future__ import annotations

from collections.abc import Iterator

from secateur.backends.tensorrt.lint.finding import Finding, Severity, Source
from secateur.backends.tensorrt.lint.rule import Rule
from secateur.backends.tensorrt.lint.site import Site, Target, dtype_of
from secateur.ir.rules.known import Known
from secateur.ir.types import DataType

RTX = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""The compute capabilities that TensorRT-RTX 1.7 can be told to build for."""

LOWEST: dict[DataType, tuple[int, int]] = {
    DataType.BFLOAT16: (8, 0),
    DataType.INT4: (8, 0),
    DataType.FLOAT8E4M3FN: (8, 9),
    DataType.FLOAT4E2M1: (12, 0),
}
"""The lowest compute capability with hardware for a type."""

_DYNAMIC: dict[str, tuple[int, int]] = {
    "TRT_MXFP8DynamicQuantize": (8, 9),
    "TRT_FP8QuantizeLinear": (8, 9),
    "TRT_FP4DynamicQuantize": (12, 0),
}


def dotted(capability: tuple[int, int]) -> str:
    """(8, 9) as "8.9"."""
    return f"{capability[0]}.{capability[1]}"


def unknown_targets(target: Target) -> Iterator[Finding]:
    """The targets that the package cannot build for."""
    for one in target.capabilities if target.flavor == "tensorrt-rtx" else ():
        if one not in RTX:
            yield Finding(
                Severity.REFUSED,
                "",
                "",
                f"TensorRT-RTX does not build for compute capability {dotted(one)}",
                f"it builds for {', '.join(map(dotted, RTX))}",
                Source.HARDWARE,
            )


def types_without_hardware(known: Known, target: Target) -> Iterator[Finding]:
    """Each type that the graph has and that a target lacks, once, with the first value of that type."""
    seen: set[DataType] = set()
    for value in known.graph.values():
        kind = dtype_of(known, value)
        if kind not in LOWEST or kind in seen:
            continue
        assert kind is not None
        seen.add(kind)
        lacking = [dotted(one) for one in target.capabilities if one < LOWEST[kind]]
        if lacking:
            yield Finding(
                Severity.REFUSED,
                "",
                value.name,
                f"it is {kind.short}, for which there is no hardware at compute capability {', '.join(lacking)}",
                f"build for {dotted(LOWEST[kind])} or newer only, or keep the model in another type",
                Source.HARDWARE,
            )


def _dynamic(site: Site) -> str | None:
    lowest = _DYNAMIC[site.op.op_type]
    lacking = [dotted(one) for one in site.target.capabilities if one < lowest]
    return f"there is no hardware for its type at compute capability {', '.join(lacking)}" if lacking else None


def _turing(site: Site) -> str | None:
    if (7, 5) not in site.target.capabilities or site.dtype(0) is not DataType.FLOAT32:
        return None
    return "compute capability 7.5 has no kernel for matrix products of float32"


RULES: tuple[Rule, ...] = (
    Rule(
        tuple(f"{domain}{name}" for name in _DYNAMIC for domain in ("", "trt::")),
        _dynamic,
        "build for newer targets only",
        Source.HARDWARE,
    ),
    Rule(
        ("Gemm", "MatMul", "LSTM", "GRU", "RNN"),
        _turing,
        "build for newer targets only, or cast the model to float16",
        Source.HARDWARE,
    ),
)
