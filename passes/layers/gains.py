"""What 2:4 weights can gain on a target at most, by the roofline or as was measured: layer by layer, and end to end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from secateur.ir.errors import RefusedError
from secateur.ir.kernel_times import KernelTimes
from secateur.ir.node import Op, Value
from secateur.ir.roofline import Work, intensity, least_time
from secateur.ir.rules.cost import cost
from secateur.ir.rules.known import Known
from secateur.ir.rules.sparse_kernels import COMPOSITE, ineligible, unfit
from secateur.ir.rules.traffic import op_bytes
from secateur.ir.rules.weights import WeightUse, weight_uses_of
from secateur.ir.targets import Format, Target

LEAST = 1.05
"""A layer that gains less than this at most stays dense: zeros cost accuracy, and no kernel reaches its roofline."""


@dataclass(frozen=True)
class Question:
    """Where a model shall run, and in which number format."""

    target: Target
    form: Format
    least: float = LEAST
    """The smallest gain that zeros are worth, at least 1."""
    times: KernelTimes | None = None
    """Measured products; they count instead of the roofline, for layers that were measured."""


@dataclass(frozen=True)
class LayerGain:
    """What one op gains by a 2:4 weight at most. Ops that are more than one product take no time here.

    `rows` is how many vectors the weight is multiplied with, `macs` counts multiply-accumulates, `intensity` operations
    for each byte. `bound` says what the dense layer's time is due to, "compute" or "memory", or "measured". `seconds`
    and `sparse_seconds` are those of the dense layer and of the layer as it is advised. `reason` says why it stays
    dense, and then `gain` is 1.
    """

    weight: str
    op: str
    shape: tuple[int, ...]
    rows: int = 0
    macs: int = 0
    intensity: float = 0.0
    bound: str = "unknown"
    seconds: float = 0.0
    sparse_seconds: float = 0.0
    reason: str | None = None

    @property
    def gain(self) -> float:
        """How many times as fast it becomes, 1 where it stays dense."""
        return self.seconds / self.sparse_seconds if self.sparse_seconds else 1.0

    @property
    def can_gain(self) -> bool:
        """Whether to make it sparse."""
        return self.reason is None


@dataclass(frozen=True)
class NetworkGain:
    """What a whole network gains if every layer that can gain becomes 2:4, and the layers themselves.

    `gain` takes every op to read from memory what it reads, and to write what it gives. `gain_on_chip` takes weights
    alone to come from memory, as if all else were fused or cached; None where times were measured. `other_seconds` is
    what all other ops take by `gain`'s count, and `uncounted` those whose shapes are not known.
    """

    layers: tuple[LayerGain, ...]
    others: int
    other_seconds: float
    gain: float
    gain_on_chip: float | None
    uncounted: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """What a run takes at least, dense."""
        return self.other_seconds + sum(layer.seconds for layer in self.layers)


def network_gain(known: Known, question: Question) -> NetworkGain:
    """Asks every weighted op of a graph; bodies and functions are not looked into.

    Sizes that the model leaves open count as 1: `secateur.ir.sizes.with_sizes` fixes them.

    Raises:
        RefusedError: the target does not have the format.
    """
    target, form = question.target, question.form
    if form not in target.peak:
        raise RefusedError(f"{target.title} has no {form} products", hint=f"it has {', '.join(target.peak)}")
    ops = [op for op in known.graph.ops() if not _is_constant(known, op)]
    uses = {op: list(weight_uses_of(known, op)) for op in ops}
    readers = _by_weight(use for some in uses.values() for use in some)
    between = {one for some in uses.values() for use in some for one in use.chain}
    macs, none = cost(known).macs, unfit(target, form)
    layers: list[LayerGain] = []
    works: list[Work] = []
    others: list[Work] = []
    uncounted: list[str] = []
    for op in ops:
        if op in between:
            continue  # what lies between a constant and its reader is done once and for all
        work = _work(known, op, uses[op], macs.get(op), form)
        if work is None:
            uncounted.append(op.title)
        single = _is_layer(op, uses[op])
        if not single:
            others.append(work or Work(0))
        for use in uses[op]:
            works.append((work or Work(0)) if single else Work(0))
            refusal = none or ineligible(use, readers[use.weight], known, form)
            layers.append(_layer(use, work if single else None, refusal, question))
    pairs = [(layer.seconds, layer.sparse_seconds) for layer in layers]
    other_seconds = _total(others, question)
    return NetworkGain(
        layers=tuple(layers),
        others=len(others),
        other_seconds=other_seconds,
        gain=_ratio(pairs, other_seconds),
        gain_on_chip=_gain_on_chip(layers, works, others, question),
        uncounted=tuple(uncounted),
    )


def _by_weight(uses: Iterable[WeightUse]) -> dict[Value, list[WeightUse]]:
    found: dict[Value, list[WeightUse]] = {}
    for use in uses:
        found.setdefault(use.weight, []).append(use)
    return found


def _is_layer(op: Op, uses: Sequence[WeightUse]) -> bool:
    """One product with one weight: what such an op takes is what its weight takes."""
    return len(uses) == 1 and op.op_type not in COMPOSITE


def _work(known: Known, op: Op, uses: Sequence[WeightUse], macs: int | None, form: Format) -> Work | None:
    """What an op has to do; None where shapes that it takes to tell are not known."""
    moved = op_bytes(known, op, form, leave_out=[use.port for use in uses])
    if moved is None:
        return None
    if _is_layer(op, uses) and macs is None:
        made = known.shape(op.output)
        if made is None or uses[0].batch:
            return None
        positions = math.prod(size if isinstance(size, int) else 1 for size in made) // max(uses[0].outputs, 1)
        macs = positions * uses[0].tensor.size
    return Work(macs or 0, sum(use.tensor.size for use in uses), moved)


@dataclass(frozen=True, order=True)
class Product:
    """[rows, inputs] x [inputs, outputs]."""

    inputs: int
    outputs: int
    rows: int


def products(known: Known) -> tuple[Product, ...]:
    """The layers of a graph that are plain matrix products, each shape once: those that can be looked up in a table.

    Layers of unknown shapes are not among them; sizes that the model leaves open count as 1.
    """
    found: dict[Product, None] = {}
    macs = cost(known).macs
    for op in known.graph.ops():
        uses = [] if _is_constant(known, op) else list(weight_uses_of(known, op))
        if not _is_layer(op, uses) or not _is_product(uses[0]):
            continue
        work, use = _work(known, op, uses, macs.get(op), Format.FP16), uses[0]
        if work is not None and work.macs:
            found[Product(use.inputs, use.outputs, round(work.macs / use.tensor.size))] = None
    return tuple(found)


def gains(known: Known, question: Question) -> dict[str, float | str]:
    """For each weight by name: how many times as fast its readers become by 2:4 at most, or why it stays dense.

    Raises:
        RefusedError: the target does not have the format.
    """
    readers: dict[str, list[LayerGain]] = {}
    for layer in network_gain(known, question).layers:
        readers.setdefault(layer.weight, []).append(layer)
    found: dict[str, float | str] = {}
    for weight, some in readers.items():
        reason = next((layer.reason for layer in some if layer.reason is not None), None)
        found[weight] = reason or _ratio([(layer.seconds, layer.sparse_seconds) for layer in some], 0.0)
    return found


def _layer(use: WeightUse, work: Work | None, refusal: str | None, question: Question) -> LayerGain:
    target, form = question.target, question.form
    if work is None:
        return LayerGain(use.weight.name, use.op.title, use.tensor.shape, reason=refusal or "its shapes are not known")
    rows = round(work.macs / use.tensor.size) if use.tensor.size else 0
    dense, sparse = least_time(work, target, form), least_time(work, target, form, sparse=True)
    before, after, bound = dense.seconds, sparse.seconds, dense.bound
    if (measured := _measured(use, rows, question)) is not None:
        (before, after), bound = measured, "measured"
    gain = before / after if after else 1.0
    if refusal is None and gain < question.least:
        refusal = _too_little(gain, bound)
    return LayerGain(
        weight=use.weight.name,
        op=use.op.title,
        shape=use.tensor.shape,
        rows=rows,
        macs=round(work.macs),
        intensity=intensity(work, form),
        bound=bound,
        seconds=before,
        sparse_seconds=before if refusal else after,
        reason=refusal,
    )


def _too_little(gain: float, bound: str) -> str:
    if bound == "measured":
        return f"{gain:.3f} times as fast, as measured"
    return f"{gain:.3f} times as fast at most" + (", for its activations" if bound == "memory" else "")


def _is_product(use: WeightUse) -> bool:
    """One matrix, and no kernel of more than one tap."""
    return use.slabs == 1 and math.prod(use.tensor.shape[axis] for axis in use.taps) == 1


def _measured(use: WeightUse, rows: int, question: Question) -> tuple[float, float] | None:
    """Seconds, dense and sparse, of a layer that is a plain matrix product and in the table."""
    if question.times is None or not _is_product(use):
        return None
    return question.times.seconds(question.form, rows, use.inputs, use.outputs)


def _gain_on_chip(
    layers: Sequence[LayerGain], works: Sequence[Work], others: Sequence[Work], question: Question
) -> float | None:
    """End to end, if nothing but weights moved between memory and the chip; nobody has measured that."""
    if question.times is not None:
        return None
    pairs = []
    for layer, work in zip(layers, works, strict=True):
        alone = replace(work, bytes=0.0)
        dense = least_time(alone, question.target, question.form)
        after = least_time(alone, question.target, question.form, sparse=layer.can_gain)
        pairs.append((dense.seconds, after.seconds))
    return _ratio(pairs, _total([replace(work, bytes=0.0) for work in others], question))


def _total(works: Sequence[Work], question: Question) -> float:
    """Seconds that works take at least, one after another."""
    return sum(least_time(work, question.target, question.form).seconds for work in works)


def _ratio(pairs: Sequence[tuple[float, float]], rest: float) -> float:
    """Amdahl 1967: what stays as it is bounds what the rest can gain."""
    before = after = rest
    for dense, sparse in pairs:
        before, after = before + dense, after + sparse
    return before / after if after else 1.0


def _is_constant(known: Known, op: Op) -> bool:
    """Reads constants only, and is folded before anything runs."""
    return bool(op.inputs) and all(value is None or known.constant(value) is not None for value in op.inputs)
