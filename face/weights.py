"""One line for each weight of a model: may its channels go, is it sparse, is it quantized?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from secateur.ir import Op, Tensor
from secateur.ir.dims.algebra import leaves
from secateur.ir.dims.analysis import Dimensions, dimensions
from secateur.ir.dims.axes import Use
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse
from secateur.ir.sparsity import sparsities


@dataclass(frozen=True)
class WeightRow:
    """How one op uses one weight.

    `reason` says why its output channels stay, where they do. `zeros` is a share in [0, 1]; `pattern` is the tightest
    N:M that holds along the contracted axis, where half or more are zero. `quantized` is the stored format, "i8 per
    channel".
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


def weight_rows(known: Known) -> Iterator[WeightRow]:
    """The weights of a graph in the order of its ops (bodies and functions are not looked into)."""
    found = dimensions(known)
    for sparsity in sparsities(known):
        use = sparsity.use
        maker = next((op for op in use.chain if op.op_type == "DequantizeLinear"), None)
        reason = "it is quantized already: prune first" if maker is not None else _reason(found, use)
        yield WeightRow(
            name=use.weight.name,
            op=use.op.title,
            shape=use.tensor.shape,
            dtype=use.tensor.dtype.short,
            prunable=reason is None,
            reason=reason,
            zeros=sparsity.zeros,
            pattern=sparsity.pattern if sparsity.zeros >= 0.5 else None,
            quantized=None if maker is None else _format(maker, use.tensor),
        )


def _reason(found: Dimensions, use: WeightUse) -> str | None:
    """Why the output channels of a weight stay; None where some can go."""
    place = Use(use.chain[0], 0) if use.chain else Use(use.op, use.port)
    leaves_there = list(leaves(found.of(place)[use.produced]))
    pins = [leaf.pin for leaf in leaves_there if leaf.size != 1]
    return None if None in pins else next(filter(None, pins), "it has one output channel only")


def _format(maker: Op, tensor: Tensor) -> str:
    scale = maker.input(1)
    shape = scale.const.shape if scale is not None and scale.const is not None else ()
    block = maker.attribute("block_size", 0)
    grain = f"per block of {block}" if block else "per channel" if shape and shape != (1,) else "per tensor"
    return f"{tensor.dtype.short} {grain}"
