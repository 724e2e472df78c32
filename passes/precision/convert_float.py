"""`convert-float`: 16 bits where that does no harm, with types that every op states."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

import ml_dtypes
import numpy as np

from secateur.ir import DataType, Graph, Op
from secateur.ir.errors import RefusedError
from secateur.ir.rules.weights import WeightUse, weight_uses
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.opset import raise_opset
from secateur.passes.precision.decide import Decision
from secateur.passes.precision.limits import MARGIN, magnitudes
from secateur.passes.precision.rewrite import Rewrite

_TYPES = {"float16": DataType.FLOAT16, "bfloat16": DataType.BFLOAT16}
_CAST = 6
"""The first opset whose Cast names its type by number."""
_QUANTIZERS = 19
"""The first opset whose scales may be of 16 bits."""
_BFLOAT16 = 22
"""The first opset whose convolutions and pools take bfloat16."""


@dataclass(frozen=True)
class ConvertFloat(Pass):
    """Weights and activations become float16 or bfloat16, as strongly typed runtimes such as TensorRT want it.

    Convolutions and products go to 16 bits; normalisations, softmax, long sums, exponentials, powers, positions and
    losses stay in float32, and so does what no rule is known for, what has constants that 16 bits do not hold, and,
    where calibration data is given, what reads or makes activations beyond half of the largest float16. Everything
    else goes where the fewest Casts are needed. Bodies of If, Loop and Scan, and local functions, stay as they are.
    Where the model's opset lacks an operator in the type, the opset is raised as far as possible. (Micikevicius et al.
    2018, "Mixed Precision Training", section 3, on what needs float32.)
    """

    name: ClassVar[str] = "convert-float"
    changes: ClassVar[Facet] = (
        Facet.TOPOLOGY | Facet.SHAPE | Facet.DTYPE | Facet.WEIGHTS | Facet.ATTRIBUTES | Facet.SCHEME
    )
    effect: ClassVar[Effect] = Effect.LOSSY
    replayable: ClassVar[bool] = False

    dtype: Literal["float16", "bfloat16"] = "float16"
    """The type of 16 bits."""
    keep: tuple[str, ...] = ()
    """Names or types of ops that stay in float32."""
    signature: Literal["keep", "convert"] = "keep"
    """Whether inputs and outputs stay in float32, or change their types as well."""

    @property
    def retypes(self) -> bool:
        """True where inputs and outputs change their types."""
        return self.signature == "convert"

    def run(self, graph: Graph, context: Context) -> int:
        """Returns how many ops compute in 16 bits; rows say which do not, and why.

        Raises:
            RefusedError: `keep` names an op, or a type of ops, that the model does not have; or the model is of an
                opset before 6, whose Cast is another.
        """
        self._check(graph)
        wanted = _TYPES[self.dtype]
        raised = _raise(graph, wanted, context)
        known = context.facts.get(known_fact)
        decision = Decision(known, wanted, frozenset(self.keep), self.retypes)
        if wanted is DataType.FLOAT16:
            found = magnitudes(graph, decision.activations(), context)
            decision.exclude(found, float(np.finfo(np.float16).max) / MARGIN)
            if not found:
                context.note("without calibration data, activations were not checked against the range of float16")
        decision.settle()
        decision.lower = {op for op in decision.lower if context.allow("lower", op)}
        uses = [use for use in weight_uses(known) if use.op in decision.lower]
        errors = [_error(use, wanted) for use in uses]
        rewrite = Rewrite(decision)
        done = rewrite.run()
        if done:
            _report(context, rewrite, errors)
            context.manifest.exact = False
        return done + raised

    def _check(self, graph: Graph) -> None:
        opset = graph.header.opset()
        if opset is not None and opset < _CAST:
            raise RefusedError(
                f"the model imports opset {opset}, and Casts are written with opset {_CAST} or later",
                hint="convert the model with onnx.version_converter, or export it anew",
            )
        there = {name for op in graph.ops() for name in (op.name, op.op_type)}
        for name in self.keep:
            if name not in there:
                raise RefusedError(f"keep={name}: no op has this name or type", hint="`secateur print` shows both")


def _raise(graph: Graph, dtype: DataType, context: Context) -> int:
    """Takes the opset that has the type everywhere; 1 where that is another than before."""
    quantized = any("QuantizeLinear" in op.op_type for op in graph.ops())
    wanted = _BFLOAT16 if dtype is DataType.BFLOAT16 else _QUANTIZERS if quantized else 0
    before = graph.header.opset() or 0
    if before >= wanted or not graph.ops():
        return 0
    try:
        changed = raise_opset(graph, wanted)
    except RefusedError as error:
        context.note(f"the opset stays {before}: {error.message}")
        return 0
    context.facts.drop(ConvertFloat.changes)
    context.note(f"the model imports opset {wanted} now, which has more operators in {dtype.short}")
    context.row(opset=wanted, rewritten=changed)
    return 1


def _error(use: WeightUse, dtype: DataType) -> dict[str, object]:
    """What rounding makes of a weight: signal over noise, and how many numbers become zero."""
    if use.tensor.dtype is not DataType.FLOAT32:
        return {"layer": use.op.title, "weight": use.weight.name}
    dense = use.tensor.numpy()
    rounded = dense.astype(dtype.numpy).astype(np.float32)
    lost = int(np.count_nonzero(dense)) - int(np.count_nonzero(rounded))
    error = (dense - rounded).reshape(-1)
    energy, noise = float(np.vdot(dense, dense)), float(np.vdot(error, error))
    decibel = 10 * float(np.log10(energy / noise)) if noise and energy else None
    return {"layer": use.op.title, "weight": use.weight.name, "sqnr_db": decibel, "lost": lost}


def _report(context: Context, rewrite: Rewrite, errors: list[dict[str, object]]) -> None:
    decision = rewrite.decision
    smallest = float(ml_dtypes.finfo(decision.dtype.numpy).eps)
    context.row(lower=len(decision.lower), casts=rewrite.casts, constants=rewrite.constants, step=smallest)
    firsts: dict[tuple[str, str], Op] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for op, reason in decision.kept.items():
        counts[op.op_type, reason] += 1
        firsts.setdefault((op.op_type, reason), op)
    for (op_type, reason), count in counts.items():
        context.row(op_type=op_type, kept=count, reason=reason, first=firsts[op_type, reason].title)
    for row in errors:
        context.row(**row)
