"""Which layers a sparse kernel can take at all: one rule for each thing that it asks for, each with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, strangers
from secateur.ir.targets import SPARSE_SINCE, Format, Target

INPUTS = {Format.FP16: 16, Format.BF16: 16, Format.FP8: 32, Format.INT8: 32}
"""The contracted axis is a multiple of this: what TensorRT suggests for sparse kernels (developer guide, "Tensor
Cores", table of alignments) and cuSPARSELt insists on. Formats that are not here have no 2:4 products."""
OUTPUTS = 8
"""The produced axis is a multiple of this, so that rows of results start at multiples of 16 bytes in fp16. Both
libraries would rather have what `INPUTS` says here, too; TensorRT pads."""

COMPOSITE = frozenset({"Attention", "GRU", "LSTM", "MoE", "RNN"})
"""Ops that do more than one product; no sparse kernels are documented for any of them."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One reader of a weight, all readers of that weight, and the format."""

    use: WeightUse
    readers: Sequence[WeightUse]
    known: Known
    form: Format


_Rule: TypeAlias = Callable[[_Case], str | None]


def unfit(target: Target, form: Format) -> str | None:
    """Why no layer at all can take a 2:4 kernel in this format on this target; None where layers can."""
    if target.capability < SPARSE_SINCE:
        since = ".".join(map(str, SPARSE_SINCE))
        return f"{target.title} has no sparse tensor cores: they came with compute capability {since}"
    if form is Format.TF32:
        return "sparse tf32 products are 1:2, not 2:4"
    if form not in INPUTS:
        return f"{form} products do not run on tensor cores"
    if form not in target.sparse:
        return f"{target.title} has no sparse {form} products"
    return None


def ineligible(use: WeightUse, readers: Sequence[WeightUse], known: Known, form: Format) -> str | None:
    """Why a layer cannot take a 2:4 kernel in this format, wherever it runs; None where it can.

    `readers` are all uses of the same weight, this one among them.
    """
    case = _Case(use, readers, known, form)
    return next((reason for rule in _RULES if (reason := rule(case))), None)


def _composite(case: _Case) -> str | None:
    name = case.use.op.op_type
    return f"no sparse kernel is known for {name}" if name in COMPOSITE else None


def _slabs(case: _Case) -> str | None:
    """TensorRT does not look for sparse kernels for grouped convolutions (its developers, TensorRT issue 4054)."""
    if case.use.groups > 1:
        return f"it is grouped, {case.use.groups} groups"
    return f"it is {case.use.slabs} matrices in one" if case.use.batch else None


def _transposed(case: _Case) -> str | None:
    return "no sparse kernel is documented for transposed convolutions" if case.use.is_transposed else None


def _inputs(case: _Case) -> str | None:
    size, multiple = case.use.inputs, INPUTS.get(case.form, 4)
    return f"its {size} inputs are no multiple of {multiple}" if size % multiple else None


def _outputs(case: _Case) -> str | None:
    return f"its {case.use.outputs} outputs are no multiple of {OUTPUTS}" if case.use.outputs % OUTPUTS else None


def _readers(case: _Case) -> str | None:
    """Zeros in a weight that something else reads change that, too; along another axis they are not 2:4."""
    if others := strangers(case.known.graph, case.use.weight, case.readers):
        return f"{', '.join(others)} also reads its weight"
    if any(other.contracted != case.use.contracted for other in case.readers):
        return "its weight is read along another axis, too"
    return None


_RULES: tuple[_Rule, ...] = (_composite, _slabs, _transposed, _inputs, _outputs, _readers)
