"""Passes for tests: one that is honest, and several that are not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal

import numpy as np

from secateur.ir import Graph, Tensor
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.passes import Context, Effect, Facet, Pass


class Color(Enum):
    RED = "red"
    BLUE = "deep-blue"


@dataclass(frozen=True)
class Options(Pass):
    """Has an option of every kind."""

    name: ClassVar[str] = "options"
    changes: ClassVar[Facet] = Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.EXACT

    flag: bool = False
    count: int = 1
    ratio: float = 0.5
    label: str = "plain"
    color: Color = Color.RED
    pattern: Literal["2:4", "1:2"] = "2:4"
    size: int | None = None
    layers: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    max_bytes: int | float | str | None = None
    nested: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        return 0


@dataclass(frozen=True)
class Scale(Pass):
    """w' = w * factor, for every constant of floating point; declares what the test says."""

    name: ClassVar[str] = "scale"
    changes: ClassVar[Facet] = Facet.WEIGHTS
    effect: ClassVar[Effect] = Effect.LOSSY

    factor: float = 2.0

    def run(self, graph: Graph, context: Context) -> int:
        return scale(graph, self.factor, context)


@dataclass(frozen=True)
class ScaleTogether(Scale):
    """Says that layers belong together from then on."""

    name: ClassVar[str] = "scale-together"
    joint: ClassVar[bool] = True


@dataclass(frozen=True)
class FalselyExact(Scale):
    """Says that nothing changes."""

    name: ClassVar[str] = "falsely-exact"
    effect: ClassVar[Effect] = Effect.EXACT


@dataclass(frozen=True)
class Undeclared(Scale):
    """Does not declare that it changes weights."""

    name: ClassVar[str] = "undeclared"
    changes: ClassVar[Facet] = Facet.ATTRIBUTES


@dataclass(frozen=True)
class Miscounting(Scale):
    """Says that it did nothing."""

    name: ClassVar[str] = "miscounting"

    def run(self, graph: Graph, context: Context) -> int:
        super().run(graph, context)
        return 0


@dataclass(frozen=True)
class Boasting(Scale):
    """Says that it did something."""

    name: ClassVar[str] = "boasting"

    def run(self, graph: Graph, context: Context) -> int:
        return 3


@dataclass(frozen=True)
class Halfway(Pass):
    """Changes everything, then fails in the way that it is told."""

    name: ClassVar[str] = "halfway"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.ATTRIBUTES
    effect: ClassVar[Effect] = Effect.LOSSY

    failure: Literal["refused", "crash", "interrupt", "memory"] = "refused"

    def run(self, graph: Graph, context: Context) -> int:
        scale(graph, -1.0, context)
        context.manifest.keep("w", 0, [0])
        if graph.ops():
            last = graph.ops()[-1]
            last.name = "spoilt"
            graph.set_interface(outputs=[emit(graph, "Neg", [last.output]).output])
        failures: dict[str, BaseException] = {
            "refused": RefusedError("no", hint="try something else"),
            "crash": ZeroDivisionError("by zero"),
            "interrupt": KeyboardInterrupt(),
            "memory": MemoryError(),
        }
        raise failures[self.failure]


def scale(graph: Graph, factor: float, context: Context) -> int:
    rewrites = 0
    for value in graph.constants():
        assert value.const is not None
        if value.const.dtype.is_float and context.allow("scale", graph.consumers(value)[0]):
            value.set_const(Tensor((value.const.numpy() * factor).astype(np.float32)))
            context.row(weight=value.name, factor=np.float32(factor))
            rewrites += 1
    return rewrites
