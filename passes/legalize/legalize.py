"""`legalize`: what TensorRT refuses only because of how it is written is written as it takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.ir import Graph
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import shapes
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.legalize import bias, outputs, unsigned
from secateur.passes.legalize.casts import Casting
from secateur.passes.parts import parts


@dataclass(frozen=True)
class Legalize(Pass):
    """Rewrites for TensorRT that change no bit of what a model computes; `lint` says what is left.

    - A bias in int32 behind a DequantizeLinear becomes the float constant that it stands for.
    - Quantization to uint8 with zero point 128 becomes quantization to int8 with zero point 0: the codes move by 128.
    - Outputs that nobody reads are left out of operators of which TensorRT makes the first output only.
    - An operator whose inputs are of several floating-point types, which ONNX forbids, is given them in the widest.

    Axes that are computed from constants, which it wants as constants, are the work of `fold-constants`; weights that
    are stored sparsely are dense as soon as a model is loaded. Integer operators (QLinearConv and the like) round
    otherwise than Q/DQ around float ones: `import-quantized` rewrites them.
    """

    name: ClassVar[str] = "legalize"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops were rewritten."""
        counts = {"biases": 0, "unsigned": 0, "outputs": 0, "casts": 0}
        types = context.facts.get(shapes)
        for part in parts(graph):
            for op in part.ops():
                if bias.fits(part, op) and context.allow("bias", op):
                    bias.rewrite(part, op)
                    counts["biases"] += 1
                elif (pair := unsigned.group(part, op)) and context.allow("unsigned", op):
                    unsigned.rewrite(part, pair)
                    counts["unsigned"] += 1
                elif outputs.fits(part, op) and context.allow("outputs", op):
                    outputs.rewrite(part, op)
                    counts["outputs"] += 1
            counts["casts"] += Casting(part, types, context).run()
        done = sum(counts.values())
        if done:
            context.row(**counts)
        return done
