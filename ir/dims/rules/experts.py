"""Mixtures of experts in one op: experts, their neurons, and the columns of the router."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all
from secateur.ir.dims.rules.contractions import whole


@dataclass(frozen=True)
class _Sizes:
    """How a mixture is packed: ports of weights and biases, neurons that are gated in one weight, elements in a byte."""

    experts: Layout
    hidden: Layout
    neurons: Layout
    gated: Layout
    """Neurons of the first linear map: gates and values, one after the other or interleaved."""


@dims_rules.register("com.microsoft::MoE")
def mixture(axes: Axes) -> None:
    """FC1 [experts, neurons (twice where gated), hidden], FC2 [experts, hidden, neurons], FC3 as FC1; router [tokens, experts]."""
    sizes = _sizes(axes, 2, 4)
    _linear(axes, (2, 3), [sizes.experts, sizes.gated, sizes.hidden])
    _linear(axes, (4, 5), [sizes.experts, sizes.hidden, sizes.neurons])
    _linear(axes, (6, 7), [sizes.experts, sizes.neurons, sizes.hidden])
    _route(axes, sizes.experts)


def _sizes(axes: Axes, first: int, second: int) -> _Sizes:
    data = axes.input(0)
    shapes = [axes.known.shape(axes.op.input(port)) for port in (first, second)]
    numbers = [size for shape in shapes for size in shape or () if isinstance(size, int)]
    if len(numbers) != 6 or numbers[0] != numbers[3] or numbers[2] != numbers[4] or numbers[1] % numbers[5]:
        raise Unruly(f"{axes.op}: its weights are not [experts, neurons, hidden] and [experts, hidden, neurons]")
    neurons = axes.axis(numbers[5], f"neurons of {axes.op}")
    twice: Layout = (Dim(2, axes.op.title),) if numbers[1] == 2 * numbers[5] else ()
    axes.pin(twice, "packs gates and values")
    gated = (*neurons, *twice) if axes.attribute("swiglu_fusion", 0) == 1 else (*twice, *neurons)
    return _Sizes(axes.axis(numbers[0], f"experts of {axes.op}"), data[-1], neurons, gated)


def _linear(axes: Axes, ports: tuple[int, int], wanted: Layouts) -> None:
    weight, bias = ports
    if axes.has(weight):
        for mine, layout in zip(axes.input(weight), wanted, strict=True):
            axes.unify(mine, layout)
    if axes.has(bias):
        for mine, layout in zip(axes.input(bias), wanted[:2], strict=True):
            axes.unify(mine, layout)


def _route(axes: Axes, experts: Layout, *others: int) -> None:
    """The router picks among experts: one less is more than masking."""
    data = axes.input(0)
    for port in (1, *others):
        if axes.has(port):
            tokens, columns = axes.input(port)
            axes.unify(whole(data[:-1]), tokens)
            axes.unify(columns, experts)
    axes.inexact(experts, "routes tokens among them")
    axes.output(data)


@dims_rules.register("com.microsoft::QMoE")
def quantized_mixture(axes: Axes) -> None:
    """As MoE; what weights are packed or scaled along goes in whole bytes and whole blocks."""
    if axes.attribute("quant_type", "int") != "int" or axes.attribute("weights_prepacked", -1) == 1:
        raise Unruly(f"{axes.op} packs its weights for one device")
    data = axes.input(0)
    first, second = (axes.known.shape(axes.op.input(port)) for port in (2, 5))
    hidden = axes.size(axes.op.input(0), -1)
    bits, block = axes.attribute("expert_weight_bits", 4), axes.attribute("block_size", 0)
    if first is None or second is None or hidden is None or axes.attribute("fc1_expert_weight_bits", 0):
        raise Unruly(f"{axes.op}: its sizes are not known")
    if not all(isinstance(size, int) for size in (*first, *second)):
        raise Unruly(f"{axes.op}: its sizes are not known")
    neurons = int(second[2] or 0) * 8 // bits
    if first[2] != hidden * bits // 8 or second[1] != hidden or first[1] not in (neurons, 2 * neurons):
        raise Unruly(f"{axes.op}: its weights are not [experts, neurons, hidden] and [experts, hidden, neurons]")
    experts = axes.axis(first[0], f"experts of {axes.op}")
    inner = axes.axis(neurons, f"neurons of {axes.op}")
    twice: Layout = (Dim(2, axes.op.title),) if first[1] == 2 * neurons else ()
    axes.pin(twice, "packs gates and values")
    gated = (*inner, *twice) if axes.attribute("swiglu_fusion", 0) == 1 else (*twice, *inner)
    granule = math.lcm(max(block, 1), 8 // bits)
    packing = _Packing(bits, block, granule)
    for ports, wanted in (
        ((2, 3, 4, 11), [experts, gated, data[-1]]),
        ((5, 6, 7, 12), [experts, data[-1], inner]),
        ((8, 9, 10, 13), [experts, inner, data[-1]]),
    ):
        _packed_linear(axes, ports, wanted, packing)
    for port in range(15, len(axes.op.inputs)):
        if axes.has(port):
            fit(axes, [experts], axes.input(port)[:1])
    _route(axes, experts, 14)


@dataclass(frozen=True)
class _Packing:
    bits: int
    block: int
    granule: int


def _packed_linear(axes: Axes, ports: tuple[int, int, int, int], wanted: Layouts, packing: _Packing) -> None:
    """Weight, scales, bias and zero points of one linear map whose last axis is packed, and scaled in blocks."""
    weight, scales, bias, zeros = ports
    if not axes.has(weight):
        return
    experts, rows, columns = wanted
    count = math.prod(dim.size or 0 for dim in columns)
    coarse: Layout = columns
    if packing.granule > 1:
        inner: Layout = (Dim(packing.granule, axes.op.title),)
        axes.pin(inner, f"packs or scales {packing.granule} of them together")
        coarse = axes.axis(count // packing.granule, f"blocks of {axes.op}")
        if count % packing.granule:
            axes.pin(columns, f"packs or scales {packing.granule} of them together")
            axes.pin(coarse, f"packs or scales {packing.granule} of them together")
        else:
            axes.unify(columns, (*coarse, *inner))
    stored = axes.input(weight)
    entry = packing.granule * packing.bits // 8
    bytes_: Layout = (Dim(entry, axes.op.title),) if entry > 1 else ()
    axes.pin(bytes_, "packs them")
    for mine, layout in zip(stored, (experts, rows, (*coarse, *bytes_)), strict=True):
        axes.unify(mine, layout)
    if axes.has(bias):
        fit(axes, [experts, rows], axes.input(bias))
    if axes.has(scales):
        fit(axes, [experts, rows, coarse][: len(axes.input(scales))], axes.input(scales))
    if axes.has(zeros):
        axes.unify(axes.input(zeros)[0], experts)
        pin_all(axes, [rows, columns, *axes.input(zeros)[1:]], "packs their zero points")
