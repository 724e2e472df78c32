"""One line for each weight of a model: may its channels go, is it sparse, is it quantized?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from secateur.ir import Op, Tensor, Value
from secateur.ir.dims.algebra import leaves
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.sparsify.masks import satisfies


@dataclass(frozen=True)
class WeightRow:
    """How one op uses one weight.

    `reason` says why its output channels stay, where they do. `zeros` is a share in [0, 1]; `pattern` is "2:4" where
    that holds along the contracted axis. `quantized` is the stored format, "i8 per channel".
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    prunable: bool
    reason: str | None
    zeros: float
    pattern: str | None
    quantized: str | None

    def cells(self) -> dict[str, object]:
        """The columns of a table."""
        return {
            "weight": self.name,
            "op": self.op.partition(" ")[0],
            "shape": "x".join(map(str, self.shape)),
            "type": self.dtype,
            "prunable": self.prunable,
            "zeros": f"{self.zeros:.1%}",
            "pattern": self.pattern,
            "quantized": self.quantized,
        }


class Dequantized(Known):
    """Sees the stored codes behind a DequantizeLinear where an op reads a weight through one."""

    def constant(self, value: Value | None) -> Tensor | None:
        """The tensor behind a value; the codes, where it is dequantized from a constant."""
        maker = _dequantizer(self, value)
        return self.graph.constant(value if maker is None else maker.input(0))


def weight_rows(known: Known) -> Iterator[WeightRow]:
    """The weights of a graph in the order of its ops (bodies and functions are not looked into)."""
    found = dimensions(known)
    for use in weight_uses(Dequantized(known.graph, known.types)):
        maker = _dequantizer(known, use.weight)
        reason = "it is quantized already: prune first" if maker is not None else _reason(found, use)
        zeros = 1 - int(np.count_nonzero(use.tensor.numpy())) / max(use.tensor.size, 1)
        yield WeightRow(
            name=(use.weight if maker is None else maker.input(0) or use.weight).name,
            op=use.op.title,
            shape=use.tensor.shape,
            dtype=use.tensor.dtype.short,
            prunable=reason is None,
            reason=reason,
            zeros=zeros,
            pattern=_pattern(use, zeros),
            quantized=None if maker is None else _format(maker, use.tensor),
        )


def _dequantizer(known: Known, value: Value | None) -> Op | None:
    """The DequantizeLinear that makes `value` of a constant, or None."""
    maker = known.graph.producer(value) if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    return maker if known.graph.constant(maker.input(0)) is not None else None


def _reason(found: Dimensions, use: WeightUse) -> str | None:
    """Why the output channels of a weight stay; None where some can go."""
    leaves_there = list(leaves(found.of(Use(use.op, use.port))[use.produced]))
    pins = [leaf.pin for leaf in leaves_there if leaf.size != 1]
    return None if None in pins else next(filter(None, pins), "it has one output channel only")


def _pattern(use: WeightUse, zeros: float) -> str | None:
    """ "2:4" where it holds; weights with fewer zeros than that need are not looked at."""
    if zeros < 0.5 or use.tensor.shape[use.contracted] % 4:
        return None
    return "2:4" if satisfies(use.tensor.numpy(), 2, 4, use.contracted) else None


def _format(maker: Op, tensor: Tensor) -> str:
    scale = maker.input(1)
    shape = scale.const.shape if scale is not None and scale.const is not None else ()
    block = maker.attribute("block_size", 0)
    grain = f"per block of {block}" if block else "per channel" if shape and shape != (1,) else "per tensor"
    return f"{tensor.dtype.short} {grain}"
