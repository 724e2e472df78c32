"""The `quantize` pass: explicit Q/DQ in the form that onnxruntime runs and TensorRT fuses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from secateur.calib.capture import DEFAULTS, CaptureOptions, capture
from secateur.ir.graph import Graph
from secateur.ir.node import Value
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.types import DataType, TensorType, ValueType
from secateur.passes.base import Pass
from secateur.passes.cleanup.shapes import known as known_fact
from secateur.passes.context import Context
from secateur.passes.facets import Effect, Facet
from secateur.passes.manifest import Scale
from secateur.passes.opset import raise_opset
from secateur.passes.quantize import placement
from secateur.passes.quantize.calibration import CALIBRATIONS
from secateur.passes.quantize.emit import TENSORRT, Emitter
from secateur.passes.quantize.formats import find_format
from secateur.passes.quantize.layers import Layer, Wishes, choose_layers, parse_named
from secateur.passes.quantize.rounding import DATA_FREE, ROUNDINGS
from secateur.passes.quantize.signs import is_not_negative
from secateur.passes.quantize.weights import Clip, Coded, Coder, Methods

AUTO = "auto"
FEW = 4
"""Up to so many bits, rounding by what a layer reads is worth its time."""
Way: TypeAlias = tuple[str, Clip]
"""Rounding and clipping."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Keeps weights, and what they multiply, in few bits: codes on a symmetric grid behind a DequantizeLinear.

    Data x becomes DQ(Q(x)) with one scale for the tensor, from the calibration data; weights are stored as codes with
    one scale for each output channel, or for each block (Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 2, without zero points; Wu et al. 2020, "Integer
    Quantization for Deep Learning Inference", section 3). Biases stay float, zero points are 0: zeros stay zero, and a
    2:4 weight stays 2:4. A tensor that several ops read gets one Q/DQ pair, and tensors that differ only by where
    numbers lie (behind MaxPool, Concat, Reshape) one scale.

    Layers whose inputs TensorRT would compute with in float all the same stay in float, with the reason in the report:
    transposed convolutions, stacked weights, weights of recurrent and fused ops.
    """

    name: ClassVar[str] = "quantize"
    changes: ClassVar[Facet] = Facet.TOPOLOGY | Facet.WEIGHTS | Facet.DTYPE | Facet.ATTRIBUTES | Facet.SCHEME
    effect: ClassVar[Effect] = Effect.LOSSY

    format: str = "int8"
    """Of weights and data: int8, fp8, int4 (weights only), int8-block (weights only), nvfp4, mxfp8, float."""
    formats: tuple[str, ...] = ()
    """Other formats for weights by name: `[*head*:float, *down*:int4]`; globs, the first that fits counts."""
    block: int = 0
    """How many weights share a scale in the formats that have blocks of any size; 0 is 128, less where that divides
    no input channels."""
    calibration: str = "auto"
    """How the range of data is chosen: max, percentile, mse, entropy, or token, the percentile of tokens' maxima; auto
    is mse for integers, and max for formats of floating point."""
    percentile: float = 99.99
    """For calibration=percentile and token: how many percent of the values, or tokens, are not clipped."""
    clip: Literal["auto", "max", "mse"] = "auto"
    """How the range of a weight is chosen: max, or mse, which clips where the squared error is smaller for it, by what
    the layer reads where there is data; auto is mse for four bits and max for eight, where it gains next to nothing."""
    rounding: str = "auto"
    """Which code a weight gets: the nearest, or the next where errors of a kernel and a row cancel then (squant), or by
    what the layer reads gptq, descent, adaround or obr where better. auto is gptq for four bits and obr for sparse
    weights where there is data, squant for depthwise convolutions behind a ReLU, whose few errors do not average out,
    else nearest. The last two take no time."""
    products: bool = False
    """Quantize both operands of products of data, queries with keys and attention with values, too."""
    residuals: bool = True
    """Quantize what is added to a convolution's output, so that the sum is computed in its kernel."""
    sparse_outputs: Literal["convolutions", "all", "none"] = "convolutions"
    """Of which 2:4 layers what they give is quantized, too, so that a sparse kernel may write codes; all counts matrix
    products in, which costs transformers more than 2:4 and eight bits together."""
    damping: float = 0.01
    """What is added to the diagonals of Gram matrices, relative to their mean."""
    positions: int = 64
    """Output positions sampled of each image for rounding; 0 takes all."""

    def __post_init__(self) -> None:
        self._wishes()
        CALIBRATIONS.check(self.calibration)
        if self.rounding != AUTO:
            ROUNDINGS.check(self.rounding)
        if self.sparse_outputs not in ("convolutions", "all", "none"):
            raise ValueError(f"sparse_outputs must be convolutions, all or none, got {self.sparse_outputs!r}")
        if self.clip not in (AUTO, "max", "mse"):
            raise ValueError(f"clip must be auto, max or mse, got {self.clip!r}")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {self.percentile}")
        if self.damping < 0 or self.positions < 0 or self.block < 0:
            raise ValueError("damping, positions and block must not be negative")

    def run(self, graph: Graph, context: Context) -> int:
        """Quantizes every weighted op that fits; returns how many."""
        wishes, known = self._wishes(), context.facts.get(known_fact)
        layers = [one for one in choose_layers(known, wishes, context) if context.allow("quantize", one.use.op)]
        if not layers:
            return 0
        if raise_opset(graph, _opset(layers)):
            context.facts.drop(self.changes)
            known = context.facts.get(known_fact)
        if self.rounding not in (AUTO, *DATA_FREE):
            context.needed_source(f"rounding={self.rounding}")
        sites = placement.place(placement.Plan(known, layers), self._rules())
        # Those that are fitted to data change what flows through the model; the others wait until that is measured.
        ways = self._ways(layers, context)
        fitted = [one for one in ways if one[0] not in DATA_FREE or (one[1] == "mse" and context.source is not None)]
        coded = self._coded(graph, {way: ways[way] for way in fitted}, context)
        emitter = Emitter(graph, self._ranges(graph, sites, context))
        coded |= self._coded(graph, {way: some for way, some in ways.items() if way not in fitted}, context)
        for site in sites:
            kind = known.types.get(site.value, site.value.type)
            dtype = kind.dtype if isinstance(kind, TensorType) else layers[0].use.tensor.dtype
            emitter.read_data(site.op, site.port, site.format, dtype)
        for layer in layers:
            emitter.read_weight(layer, coded[layer])
            _report(layer, coded[layer], context)
        for wanted in dict.fromkeys(layer.format for layer in layers if layer.format.remark):
            context.note(f"{wanted.name}: {wanted.remark}")
        emitter.tidy(layers)
        if any(site.format.dynamic for site in sites):
            graph.header = graph.header.with_opset(TENSORRT, graph.header.opset(TENSORRT) or 1)
        return sum(len(layer.uses) for layer in layers)

    def _wishes(self) -> Wishes:
        wanted = find_format(self.format)
        named = tuple(parse_named(one) for one in self.formats)
        return Wishes(wanted and wanted.with_block(self.block), named)

    def _rules(self) -> list[placement.Rule]:
        rules: list[placement.Rule] = [placement.layer_inputs]
        if self.products:
            rules.append(placement.attention_products)
        if self.residuals:
            rules.append(placement.residual_shortcuts)
        if self.sparse_outputs != "none":
            rules.append(placement.sparse_convolutions)
        if self.sparse_outputs == "all":
            rules.append(placement.sparse_products)
        return rules

    def _ways(self, layers: Sequence[Layer], context: Context) -> dict[Way, list[Layer]]:
        """Layers by how their weights get their codes."""
        ways: dict[Way, list[Layer]] = {}
        for layer in layers:
            ways.setdefault((self._rounding(layer, context), self._clip(layer)), []).append(layer)
        return ways

    def _coded(self, graph: Graph, ways: Mapping[Way, Sequence[Layer]], context: Context) -> dict[Layer, Coded]:
        found: dict[Layer, Coded] = {}
        for (rounding, clip), some in ways.items():
            methods = Methods(rounding, clip, self.damping, self.positions)
            found.update(Coder(graph, methods, context).run(some))
        return found

    def _clip(self, layer: Layer) -> Clip:
        automatic: Clip = "mse" if layer.format.grid.bits <= FEW else "max"
        return automatic if self.clip == "auto" else self.clip

    def _rounding(self, layer: Layer, context: Context) -> str:
        if self.rounding != AUTO:
            return self.rounding
        plain = "squant" if _adds_up_errors(context.facts.graph, layer) else "nearest"
        if context.source is None:
            return plain
        if SparsityScheme.of(layer.weight) is not None:
            return "obr"
        return "gptq" if layer.format.grid.bits <= FEW else plain

    def _ranges(self, graph: Graph, sites: Sequence[placement.Site], context: Context) -> dict[str, float]:
        """The largest magnitude that is kept of each value, by name, from one walk over the data."""
        types = context.facts.get(known_fact).types
        values = list(dict.fromkeys(site.value for site in sites if site.format.levels != "power"))
        if not values:
            return {}
        how = CALIBRATIONS[self.calibration]
        plain = CALIBRATIONS[how.of_floats or self.calibration]
        floats = {site.value.name for site in sites if site.format.grid.mantissa is not None}
        ways = {name: plain if name in floats else how for name in sorted(value.name for value in values)}
        seen = {name: way.statistic() for name, way in ways.items()}
        runner, source = context.needed_runner("quantize"), context.needed_source("quantize")
        watchers = {name: [one] for name, one in seen.items()}
        capture(graph, source, runner, watchers, CaptureOptions(_limit(values, types), context.progress))
        amax = {name: float(ways[name].amax(one, self.percentile)) for name, one in seen.items()}
        for group in placement.sharing(graph, values):
            largest = max(amax[value.name] for value in group)
            amax.update({value.name: largest for value in group})
        return amax


def _limit(values: Sequence[Value], types: Mapping[Value, ValueType]) -> int | None:
    """What capture may hold: no limit where shapes are known, and say that all values fit, so that it need not look."""
    limit = DEFAULTS.memory_limit or 0
    total = 0
    for kind in (types.get(value, value.type) for value in values):
        shape = kind.shape if isinstance(kind, TensorType) else None
        sizes = [dim for dim in shape or (None,) if isinstance(dim, int)]
        if shape is None or len(sizes) < len(shape):
            return limit
        total += 4 * math.prod(sizes)
    return None if total <= limit else limit


def _report(layer: Layer, coded: Coded, context: Context) -> None:
    use, name = layer.use, layer.weight.name
    axis = None if layer.whole else use.produced if layer.block is None else use.contracted
    context.manifest.scale(name, Scale(layer.format.name, coded.scale, axis=axis, block=layer.block))
    context.manifest.exact = False
    columns: dict[str, object] = {"weight": name, "format": layer.format.name}
    if axis is not None:
        columns["axis"] = axis
    if layer.block is not None:
        columns["block"] = layer.block
    scale_bits = use.tensor.dtype.bits
    columns["bits"] = layer.format.bits(layer.block, use.tensor.size // use.outputs, scale_bits)
    columns["sqnr_db"] = coded.sqnr
    if coded.error is not None:
        columns["error"], columns["nearest"] = coded.error, coded.nearest
    context.row(**columns)


def _adds_up_errors(graph: Graph, layer: Layer) -> bool:
    """Whether each output is made from a few numbers of one channel, all of one sign: errors have nothing to drown in.

    Seen with EfficientNet-Lite. Behind HardSwish, whose numbers are of both signs, nothing is gained.
    """
    return all(
        use.groups > 1 and use.groups == use.inputs and bool(use.taps) and is_not_negative(graph, use.data)
        for use in layer.uses
    )


def _opset(layers: Sequence[Layer]) -> int:
    """The first that has all of these formats, with scales of the type of the weights."""
    of_scales = max(13 if layer.use.tensor.dtype is DataType.FLOAT32 else 19 for layer in layers)
    return max(of_scales, *(layer.format.opset for layer in layers))
