"""The `sparsify` pass: N:M zeros in weights, along the axis that sparse tensor cores want."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import RefusedError
from secateur.ir.graph import Graph
from secateur.ir.node import Op
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.ir.tensor import Tensor
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.layers.matrix import bias_of, matrix_of, write_layer
from secateur.passes.layers.stages import walk
from secateur.passes.sparsify.masks import Mask, keep_largest, satisfies
from secateur.passes.sparsify.repair import refit


@dataclass(frozen=True)
class Sparsify(Pass):
    """Keeps the N largest of every M weights along the input channels, at each output channel and kernel position.

    This is the layout that TensorRT's sparse kernels read (Mishra et al. 2021, "Accelerating Sparse Deep Neural
    Networks", section 3): axis 1 of a convolution's weight, the contracted axis of a matrix product. The rest becomes
    zero; shapes stay. With data, what stays is then fitted by least squares to the outputs of the dense layer, each
    output channel on the inputs that it keeps, layer after layer on the inputs that the model gives so far.

    Depthwise and grouped convolutions, weights whose contracted axis M does not divide, and weights that several ops
    read along different axes stay dense, and the report says why.
    """

    name: ClassVar[str] = "sparsify"
    changes: ClassVar[Facet] = Facet.WEIGHTS | Facet.TOPOLOGY
    effect: ClassVar[Effect] = Effect.LOSSY

    pattern: str = "2:4"
    """N:M, how many of how many neighbours stay."""
    worthwhile: bool = True
    """Leave alone what no sparse kernel speeds up: input channels not in 16s, or output channels not in 8s."""
    repair: Literal["auto", "least-squares", "none"] = "auto"
    """What is done to the weights that stay; auto is least squares with data and nothing without."""
    damping: float = 0.01
    """Pull of the refit towards the old weights, relative to the mean square of the inputs."""
    positions: int = 64
    """Output positions sampled of each image; 0 takes all."""

    def __post_init__(self) -> None:
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"pattern must be N:M with 0 < N < M, such as 2:4; got {self.pattern!r}")
        if self.damping < 0 or self.positions < 0:
            raise ValueError("damping and positions must not be negative")

    @property
    def keep(self) -> int:
        """N of N:M."""
        return int(self.pattern.partition(":")[0])

    @property
    def group(self) -> int:
        """M of N:M."""
        return int(self.pattern.partition(":")[2])

    def run(self, graph: Graph, context: Context) -> int:
        """Masks every weight that fits; returns how many changed."""
        if self.repair == "least-squares" and context.source is None:
            raise RefusedError(f"{self} needs calibration data, but none was given", hint="give --data, or repair=none")
        repairs = self.repair != "none" and context.source is not None
        if self.repair == "auto" and not repairs:
            context.note("no calibration data: nothing is repaired")
        uses = list(weight_uses(context.facts.get(known_fact)))
        wanted = []
        for use in uses:
            if reason := self._refusal(use, graph, uses):
                context.note(f"{use.weight.name} stays dense: {reason}")
            else:
                wanted.append(use)
        changed: list[WeightUse] = []

        def visit(which: int, streams: Streams | None) -> None:
            use = wanted[which]
            context.progress("sparsify", which, len(wanted))
            if use.weight.const is use.tensor and context.allow("sparsify", use.op):
                changed.extend([use] if self._sparsify(graph, streams, use, context) else [])

        if repairs:
            walk(graph, graph.clone(), [[use.op] for use in wanted], context, visit)
        else:
            for which in range(len(wanted)):
                visit(which, None)
        context.progress("sparsify", len(wanted), len(wanted))
        return len(changed)

    def _refusal(self, use: WeightUse, graph: Graph, uses: list[WeightUse]) -> str | None:
        tensor = use.tensor
        if not tensor.dtype.is_float:
            return f"{use.op} reads it as {tensor.dtype.short}; sparsify before quantizing"
        if use.groups > 1:
            return f"{use.op} is grouped"
        if tensor.shape[use.contracted] % self.group:
            return f"its {tensor.shape[use.contracted]} input channels are no multiple of {self.group}"
        if self.worthwhile and (use.inputs % 16 or use.outputs % 8):
            return f"sparse kernels want inputs in 16s and outputs in 8s; it has {use.inputs} and {use.outputs}"
        others = {(other.op, other.contracted) for other in uses if other.weight is use.weight}
        if len({axis for _, axis in others}) > 1:
            return "its readers sum over different axes of it"
        strangers = _names(set(graph.consumers(use.weight)) - {op for op, _ in others})
        if strangers or use.weight in graph.outputs:
            return f"{strangers or 'the interface'} also reads it, not as a weight"
        return None

    def _sparsify(self, graph: Graph, streams: Streams | None, use: WeightUse, context: Context) -> bool:
        """Masks one weight and refits what stays; tells whether it changed."""
        weight = use.tensor.numpy()
        columns: dict[str, object] = {"weight": use.weight.name, "pattern": self.pattern, "axis": use.contracted}
        if satisfies(weight, self.keep, self.group, use.contracted):
            context.row(**columns, energy_kept=1.0)
            return False
        mask = keep_largest(_magnitude(weight), self.keep, self.group, use.contracted)
        context.manifest.mask(use.weight.name, mask)
        columns["energy_kept"] = _share(weight, mask)
        alone = graph.consumers(use.weight) == [use.op]
        if streams is not None and alone and not use.is_transposed and use.has_samples_first:
            (evidence,) = gather(streams, [use], context, self.positions)
            flat = np.moveaxis(mask, (use.produced, use.contracted), (0, 1)).reshape(use.outputs, -1)
            matrix, bias, error, unrepaired = refit(matrix_of(use), bias_of(use, graph), flat, evidence, self.damping)
            write_layer(graph, use, matrix, bias)
            context.manifest.exact = False
            columns.update(error=error, unrepaired=unrepaired)
        else:
            use.weight.set_const(Tensor(np.where(mask, weight, np.zeros((), weight.dtype)), use.tensor.dtype))
        context.row(**columns)
        return True


def _magnitude(weight: NDArray[Any]) -> NDArray[np.float32]:
    return np.abs(weight.astype(np.float32, copy=False))


def _share(weight: NDArray[Any], mask: Mask) -> float:
    """How much of the sum of squares the mask keeps."""
    squares = np.square(weight, dtype=np.float64) if weight.dtype.kind == "f" else weight.astype(np.float64) ** 2
    total = float(squares.sum())
    return float(squares[mask].sum()) / total if total else 1.0


def _names(ops: set[Op]) -> str:
    return ", ".join(sorted(map(str, ops)))
