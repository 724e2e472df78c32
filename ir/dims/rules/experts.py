"""Mixtures of experts in one op: experts, their neurons, and the columns of the router."""

from __future__ import annotations

import math
from dataclasses import dataclass

from secateur.ir.dims.algebra import Dim, Layout
from secateur.ir.dims.axes import Axes, Layouts, Unruly, dims_rules
from secateur.ir.dims.rules.agreement import fit, pin_all
from secateur.ir.dims.rules.contractions import whole


@dataclass(frozen=True)
class _Expert:
    """The axes that the linear maps of all experts have."""

    experts: Layout
    hidden: Layout
    neurons: Layout
    gated: Layout
    """What the first map makes: neurons, or a gate and a value for each, one after the other or side by side."""

    @property
    def reading(self) -> Layouts:
        """The first map."""
        return [self.experts, self.gated, self.hidden]

    @property
    def writing(self) -> Layouts:
        """The second map."""
        return [self.experts, self.hidden, self.neurons]

    @property
    def beside(self) -> Layouts:
        """The third map, which makes values for the gates of the first."""
        return [self.experts, self.neurons, self.hidden]


def _expert(axes: Axes, first: int, second: int, bits: int) -> _Expert:
    """Reads sizes off weights [experts, neurons, hidden] and [experts, hidden, neurons], packed along their last axis.

    Raises:
        Unruly: they are laid out otherwise, or not known.
    """
    hidden = axes.size(axes.op.input(0), -1)
    shapes = [axes.known.shape(axes.op.input(port)) for port in (first, second)]
    sizes = [size for shape in shapes for size in shape or () if isinstance(size, int)]
    if len(sizes) != 6 or hidden is None:
        raise Unruly(f"{axes.op}: the sizes of its experts are not known")
    experts, rows, columns, again, made, packed = sizes
    neurons = packed * 8 // bits
    if (experts, columns * 8, made) != (again, hidden * bits, hidden) or rows not in (neurons, 2 * neurons):
        raise Unruly(f"{axes.op}: its weights are not [experts, neurons, hidden] and [experts, hidden, neurons]")
    inner = axes.axis(neurons, f"neurons of {axes.op}")
    twice: Layout = (Dim(2, axes.op.title),) if rows == 2 * neurons else ()
    axes.pin(twice, "packs gates and values")
    gated = (*inner, *twice) if axes.attribute("swiglu_fusion", 0) == 1 else (*twice, *inner)
    return _Expert(axes.axis(experts, f"experts of {axes.op}"), axes.input(0)[-1], inner, gated)


def _route(axes: Axes, experts: Layout, *ports: int) -> None:
    """The router picks among experts: one less is more than masking."""
    data = axes.input(0)
    for port in ports:
        if axes.has(port):
            tokens, columns = axes.input(port)
            axes.unify(whole(data[:-1]), tokens)
            axes.unify(columns, experts)
    axes.inexact(experts, "routes tokens among them")
    axes.output(data)


@dims_rules.register("com.microsoft::MoE")
def mixture(axes: Axes) -> None:
    """FC1 [experts, neurons, hidden], FC2 [experts, hidden, neurons], FC3 as FC1; a router [tokens, experts]."""
    expert = _expert(axes, 2, 4, 8)
    for weight, bias, wanted in ((2, 3, expert.reading), (4, 5, expert.writing), (6, 7, expert.beside)):
        for port, layouts in ((weight, wanted), (bias, wanted[:2])):
            if axes.has(port):
                fit(axes, layouts, axes.input(port))
    _route(axes, expert.experts, 1)


@dims_rules.register("com.microsoft::QMoE")
def quantized_mixture(axes: Axes) -> None:
    """As MoE; what weights are packed or scaled along goes in whole bytes and whole blocks."""
    if axes.attribute("quant_type", "int") != "int" or axes.attribute("weights_prepacked", -1) == 1:
        raise Unruly(f"{axes.op} packs its weights for one device")
    if any(axes.attribute(f"fc{number}_expert_weight_bits", 0) for number in (1, 2, 3)):
        raise Unruly(f"{axes.op} packs its weights in several widths")
    bits, block = axes.attribute("expert_weight_bits", 4), axes.attribute("block_size", 0)
    expert = _expert(axes, 2, 5, bits)
    for ports, wanted in (
        ((2, 3, 4, 11), expert.reading),
        ((5, 6, 7, 12), expert.writing),
        ((8, 9, 10, 13), expert.beside),
    ):
        if axes.has(ports[0]):
            _packed(axes, ports, wanted, bits, math.lcm(max(block, 1), 8 // bits))
    for port in range(15, len(axes.op.inputs)):
        if axes.has(port):
            fit(axes, [expert.experts], axes.input(port)[:1])
    _route(axes, expert.experts, 1, 14)


def _packed(axes: Axes, ports: tuple[int, int, int, int], wanted: Layouts, bits: int, each: int) -> None:
    """Weight, scales, bias and zero points of a linear map; `each` columns share a byte or a scale."""
    weight, scales, bias, zeros = ports
    experts, rows, columns = wanted
    reason = f"packs or scales {each} of them together"
    count = math.prod(dim.size or 0 for dim in columns)
    coarse = columns
    if each > 1:
        coarse, inner = axes.axis(count // each, f"blocks of {axes.op}"), (Dim(each, axes.op.title),)
        axes.pin(inner, reason)
        axes.unify(columns, (*coarse, *inner))
    if count % each:
        pin_all(axes, [columns, coarse], reason)
    stored: Layout = (Dim(each * bits // 8, axes.op.title),) if each * bits > 8 else ()
    axes.pin(stored, reason)
    for mine, layout in zip(axes.input(weight), (experts, rows, (*coarse, *stored)), strict=True):
        axes.unify(mine, layout)
    if axes.has(bias):
        fit(axes, [experts, rows], axes.input(bias))
    if axes.has(scales):
        fit(axes, [experts, rows, coarse][: len(axes.input(scales))], axes.input(scales))
    if axes.has(zeros):
        axes.unify(axes.input(zeros)[0], experts)
        pin_all(axes, [rows, columns, *axes.input(zeros)[1:]], "packs their zero points")
