"""Making up for blocks that are gone: what stands in for their exit is given what they added on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.calib.capture import CaptureOptions, PairedStream, capture_pairs
from secateur.calib.drift import Bridge, Drift
from secateur.calib.output_error import Answers
from secateur.ir.build import add_constant, emit
from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.removable import Removable
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_use
from secateur.ir.tensor import Tensor
from secateur.passes.context import Context
from secateur.passes.layers.matrix import replace_constant

_SHIFTS: Mapping[str, tuple[int, bool]] = {
    "LayerNormalization": (2, True),
    "SkipLayerNormalization": (3, True),
    "BatchNormalization": (2, False),
    "GroupNormalization": (2, False),
    "InstanceNormalization": (2, False),
}
"""Norms that add a constant last: at which input, and whether it lies along the last axis or along axis 1."""

_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
"""Norms that take the length out of what they read."""


@dataclass(frozen=True)
class Gap:
    """Blocks that go, each of which begins where another one ends, and what holds the place of their end.

    Attributes:
        blocks: in the order of the graph.
        end: what left the last block, a value of the dense model too; where nothing but a norm reads that, its norm.
        holder: an Identity of what stands in for the end.
    """

    blocks: tuple[Removable, ...]
    end: Value
    holder: Op = field(repr=False)

    @property
    def axis(self) -> int:
        """The axis of channels."""
        return self.blocks[-1].axis or -1


@dataclass(frozen=True)
class Filled:
    """A gap and what was put there.

    Attributes:
        bridge: with its errors at the end of the gap.
        error: of the model's outputs, with later gaps still open; None where there was nothing to choose by it.
    """

    gap: Gap
    bridge: Bridge
    error: float | None


def hold(graph: Graph, blocks: Sequence[Removable]) -> list[Gap]:
    """Marks where blocks will be missing, before they go; an end that is an output of the graph is no place for it."""
    runs: dict[Value, list[Removable]] = {}
    for block in blocks:
        end = end_of(graph, block.exit)
        before = block.entry if block.entry in runs else end
        runs[end] = [*runs.pop(before, []), block]
    gaps = []
    for end, run in runs.items():
        if end not in graph.outputs:
            holder = emit(graph, "Identity", [end], outputs=(f"{end.name}_instead",))
            holder.output.type = end.type
            for op in graph.consumers(end):
                if op is not holder:
                    _read_instead(graph, op, end, holder.output)
            gaps.append(Gap(tuple(run), end, holder))
    return gaps


def end_of(graph: Graph, value: Value) -> Value:
    """The norm of a value that nothing else reads: without a branch the value is shorter, and the norm is not."""
    readers = graph.consumers(value)
    if len(readers) == 1 and readers[0].op_type in _NORMS and value not in graph.outputs:
        return readers[0].outputs[0] or value
    return value


def compensate(
    models: PairedStream, gaps: Sequence[Gap], answers: Answers | None, context: Context, *, linear: bool = False
) -> list[Filled]:
    """Fills the gaps in their order, each with the data as it comes from those before, and takes the holders out.

    The dense model says what should leave a gap, the model as it is by then what enters it (He et al. 2017, "Channel
    Pruning for Accelerating Very Deep Neural Networks", section 3.2, take whole models so). Of what is better than
    nothing there, on samples held out, the one that the model's outputs like best is put in; nothing, if that is.

    Args:
        models: the dense one, and the current one, without the blocks, which is changed.
        gaps: as `hold` gave them.
        answers: what the dense model answers; None where outputs cannot be compared.
        context: data and runner.
        linear: tries a linear map, too, where a constant is worth something.

    Raises:
        DataError: a value is NaN or infinite, or changes its shape on the way through a block.
    """
    graph = models.current
    order = {op: index for index, op in enumerate(graph.ops())}
    done = []
    for gap in sorted((gap for gap in gaps if gap.holder in order), key=lambda gap: order[gap.holder]):
        fit: _Fit | None = None
        if context.allow("compensate", gap.holder):
            fits = _fits(models, gap, linear, context)
            errors = [_tried(graph, gap, one, answers) for one in fits] if answers and len(fits) > 1 else None
            # Later ones are better at the end of the gap.
            best = len(fits) - 1 if errors is None else int(np.argmin(errors))
            fit = fits[best]
            done.append(Filled(gap, fit, None if errors is None else errors[best]))
        _fill(graph, gap.holder, fit, gap.axis)
    return done


def _tried(graph: Graph, gap: Gap, fit: _Fit, answers: Answers) -> float:
    """The error of the outputs with the gap filled so."""
    copy = graph.clone()
    holder = copy.producer(copy[gap.holder.output.name])
    assert holder is not None
    _fill(copy, holder, fit, gap.axis)
    error = answers.error(copy)
    return np.inf if np.isnan(error) else error


def _fits(models: PairedStream, gap: Gap, linear: bool, context: Context) -> list[_Fit]:
    who = "compensating for blocks"
    place = gap.holder.inputs[0]
    assert place is not None
    drift = Drift(gap.axis, linear=linear, seed=context.seed)
    source, runner = context.needed_source(who), context.needed_runner(who)
    watchers = {(place.name, gap.end.name): [drift]}
    capture_pairs(models, source, runner, watchers, CaptureOptions(progress=context.progress))
    return [_Fit(one.bias, one.matrix, one.before, one.after, drift.rank, drift.dtype) for one in drift.bridges()]


@dataclass(frozen=True)
class _Fit(Bridge):
    """With what is needed to write it down: number of axes and type of what it is added to."""

    rank: int
    dtype: np.dtype[Any]


def _fill(graph: Graph, holder: Op, fit: _Fit | None, axis: int) -> None:
    """Puts the bridge where the holder is: into constants that are there already, or as ops of its own."""
    value = holder.inputs[0]
    assert value is not None
    if fit is not None and fit.kind != "none":
        behind = fit.rank - axis if axis > 0 else 1  # the axis of channels, counted from the end
        if fit.matrix is not None:
            value = _mapped(graph, value, fit, behind, holder)
        elif _absorbs(graph, value, holder, fit.bias, behind):
            pass
        else:
            value = _shifted(graph, value, fit, behind, holder)
    graph.replace_all_uses(holder.output, value)
    graph.remove(holder)


def _shifted(graph: Graph, value: Value, fit: _Fit, behind: int, like: Op) -> Value:
    bias = fit.bias.reshape(-1, *[1] * (behind - 1)).astype(fit.dtype)
    return emit(graph, "Add", [value, add_constant(graph, f"{like.output.name}_bias", bias)], like=like).output


def _mapped(graph: Graph, value: Value, fit: _Fit, behind: int, like: Op) -> Value:
    """`value @ (1 + matrix) + bias`, as a MatMul and an Add, or as a convolution of size 1."""
    assert fit.matrix is not None
    whole = np.eye(len(fit.matrix)) + fit.matrix
    if behind == 1:
        weight = add_constant(graph, f"{like.output.name}_map", whole.astype(fit.dtype))
        return _shifted(graph, emit(graph, "MatMul", [value, weight], like=like).output, fit, behind, like)
    kernel = whole.T.reshape(*whole.shape, *[1] * (behind - 1))
    weight = add_constant(graph, f"{like.output.name}_map", kernel.astype(fit.dtype))
    bias = add_constant(graph, f"{like.output.name}_bias", fit.bias.astype(fit.dtype))
    return emit(graph, "Conv", [value, weight, bias], like=like).output


def _absorbs(graph: Graph, value: Value, reader: Op, bias: NDArray[np.float64], behind: int) -> bool:
    """Adds the bias to a constant that ends up in `value` and nowhere else, added and nothing more; False if none does.

    Such are the bias of the layer or the norm that makes the value, the constant of an Add, and the same of the terms
    of a sum, the last first.
    """
    if graph.consumers(value) != [reader] or len(graph.uses(value)) != 1 or value in graph.outputs:
        return False
    maker = graph.producer(value)
    if maker is None or value is not maker.outputs[0]:
        return False
    if maker.key == ("", "Identity") or _keeps_channels(graph, maker, len(bias), behind):
        return _goes_into(graph, maker.inputs[:1], maker, bias, behind)
    if maker.key == ("", "Add"):
        for port, term in enumerate(maker.inputs):
            if (tensor := graph.constant(term)) is not None and _lies_along(tensor, len(bias), behind):
                return _raise(graph, maker, port, bias)
        turn = {op: index for index, op in enumerate(graph.ops())}
        terms = [term for term in maker.inputs if term is not None and graph.constant(term) is None]
        makers = {term: graph.producer(term) for term in terms}
        terms.sort(key=lambda term: turn[op] if (op := makers[term]) is not None else -1, reverse=True)
        return _goes_into(graph, terms, maker, bias, behind)
    port_of = _bias_port(graph, maker, len(bias), behind)
    return port_of is not None and _raise(graph, maker, port_of, bias)


def _keeps_channels(graph: Graph, op: Op, width: int, behind: int) -> bool:
    """True for a Reshape of what a layer makes, as wide before and after."""
    target = graph.constant(op.input(1)) if op.key == ("", "Reshape") and behind == 1 else None
    maker = graph.producer(value) if target is not None and (value := op.inputs[0]) is not None else None
    if target is None or maker is None or not target.size or int(target.numpy().reshape(-1)[-1]) != width:
        return False
    return _bias_port(graph, maker, width, behind) is not None


def _goes_into(
    graph: Graph, values: Sequence[Value | None], reader: Op, bias: NDArray[np.float64], behind: int
) -> bool:
    return any(_absorbs(graph, value, reader, bias, behind) for value in values if value is not None)


def _bias_port(graph: Graph, op: Op, width: int, behind: int) -> int | None:
    """Where an op takes a constant that is added to its result along the channels; None where it does not."""
    port, is_last = _SHIFTS.get(op.op_type, (None, False))
    if port is not None:
        tensor = graph.constant(op.input(port))
        fits = tensor is not None and tensor.shape == (width,) and is_last == (behind == 1)
        return port if fits else None
    use = weight_use(Known(graph), op)
    if use is None or use.bias_port is None or use.outputs != width or not use.weight.const:
        return None
    if len(use.tensor.shape) - 1 != behind or (use.bias is not None and graph.constant(use.bias) is None):
        return None
    return use.bias_port


def _raise(graph: Graph, op: Op, port: int, bias: NDArray[np.float64]) -> bool:
    """Adds to the constant that an op adds; one that it could take and has not is added."""
    factor = float(op.attribute("beta", 1.0)) if op.op_type == "Gemm" else 1.0
    tensor = graph.constant(op.input(port))
    if tensor is None:
        weight = op.inputs[1]
        assert weight is not None
        assert weight.const is not None
        added = graph.add_constant(f"{weight.name}_bias", Tensor((bias / factor).astype(weight.const.dtype.numpy)))
        graph.set_inputs(op, [*op.inputs[:port], added])
        return True
    if not tensor.dtype.is_float or tensor.dtype.bits < 16 or not factor:
        return False
    present = tensor.numpy().astype(np.float64)
    raised = present + bias.reshape(present.shape) / factor
    replace_constant(graph, op, port, raised.astype(tensor.dtype.numpy))
    return True


def _lies_along(tensor: Tensor, width: int, behind: int) -> bool:
    """True for [channels] along the axis `behind` places from the end, every other axis 1."""
    shape = tensor.shape
    return len(shape) >= behind and shape[-behind] == width and tensor.size == width and tensor.dtype.is_float


def _read_instead(graph: Graph, op: Op, old: Value, new: Value) -> None:
    if old in op.inputs:
        graph.set_inputs(op, [new if value is old else value for value in op.inputs])
    for body in op.bodies():
        if old in body.nx:
            body.replace_all_uses(old, new)
