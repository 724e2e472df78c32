"""What each option costs of the resource that is short: bytes of the file, bytes as TensorRT keeps them, or time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secateur.ir.graph import Graph
from secateur.ir.kernel_times import KernelTimes
from secateur.ir.roofline import KEPT_BITS
from secateur.ir.rules.known import Known
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.targets import Format as Arithmetic
from secateur.ir.targets import Target
from secateur.passes.layers.gains import LayerGain, Question, network_gain
from secateur.passes.mix.candidates import Candidate, Choosable
from secateur.passes.mix.options import Option
from secateur.passes.quantize.layers import Layer
from secateur.passes.report import Size

PAIR = 5
"""Bytes of the scale and the zero point of data that is quantized."""


@dataclass(frozen=True)
class Costs:
    """Of one resource, for all options.

    Attributes:
        options: for each candidate what its options cost, in their order: bytes, or milliseconds.
        rest: what the rest of the model costs, whatever is chosen.
    """

    options: tuple[tuple[float, ...], ...]
    rest: float

    @property
    def now(self) -> float:
        """What the model costs as it is."""
        return self.rest + sum(one[0] for one in self.options)


def byte_costs(graph: Graph, chosen: Sequence[Choosable], *, packed: bool) -> Costs:
    """Bytes of constants; `packed` counts 2:4 weights as half of the values with `KEPT_BITS` each."""
    costs = tuple(tuple(weight_bytes(one.candidate, option, packed=packed) for option in one.options) for one in chosen)
    return Costs(costs, total_bytes(graph, packed=packed) - sum(one[0] for one in costs))


def total_bytes(graph: Graph, *, packed: bool) -> float:
    """Bytes of all constants of a graph; `packed` as above, for weights that are marked 2:4."""
    total = float(Size.of(graph).bytes)
    for value in graph.constants() if packed else ():
        scheme, tensor = SparsityScheme.of(value), value.const
        if scheme is not None and tensor is not None and (scheme.keep, scheme.group) == (2, 4):
            total -= tensor.nbytes - _packed(tensor.size, tensor.dtype.bits)
    return total


def weight_bytes(candidate: Candidate, option: Option, *, packed: bool) -> float:
    """What a weight takes as an option, scales and zero points included."""
    tensor, size = candidate.uses[0].tensor, candidate.size
    sparse, total = packed and option.sparse, _added_bias(candidate) if option.sparse else 0.0
    if option.format is None:
        return total + (_packed(size, tensor.dtype.bits) if sparse else float(tensor.nbytes))
    # Who else reads the floats keeps them.
    total += float(tensor.nbytes) if candidate.shared else 0.0
    for layer in candidate.layers[option]:
        bits = option.format.grid.bits
        total += _packed(size, bits) if sparse else float(-(-size * bits // 8))
        total += _scale_bytes(layer, size)
        total += PAIR * len(layer.uses) if option.format.reads_data else 0
    return total


def _added_bias(candidate: Candidate) -> float:
    """Bytes of the bias that `sparsify` may give to ops that could have one, and have none."""
    return sum(
        use.outputs * use.tensor.dtype.bits / 8
        for use in candidate.uses
        if use.bias_port is not None and use.bias is None
    )


def _packed(size: int, bits: int) -> float:
    return size / 2 * (bits + KEPT_BITS) / 8


def _scale_bytes(layer: Layer, size: int) -> float:
    wide = layer.use.tensor.dtype.bits / 8
    if layer.format.levels != "plain":
        return size / (layer.block or 1) + wide
    return size / layer.block * wide if layer.block else layer.use.outputs * (wide + 1)


@dataclass(frozen=True)
class Device:
    """Where time counts, and what was measured there, if anything was."""

    target: Target
    times: KernelTimes | None = None


def latency_costs(known: Known, chosen: Sequence[Choosable], device: Device) -> Costs:
    """Milliseconds of each layer by the roofline, or by measured kernels where there are some.

    Layers in float, and all other ops, count in the arithmetic that TensorRT takes for the type of their weights;
    formats of weights alone multiply in float, and read fewer bytes.

    Raises:
        RefusedError: the target has no such arithmetic.
    """
    plain = {one.candidate.name: _arithmetic(one.candidate, device.target) for one in chosen}
    wanted = {*plain.values(), *(_of(option, None) for one in chosen for option in one.options)} - {None}
    found = {form: network_gain(known, Question(device.target, form, 1.0, device.times)) for form in wanted if form}
    by_weight = {form: _by_weight(gain.layers) for form, gain in found.items()}
    common = max(plain.values(), key=list(plain.values()).count) if plain else None
    rest = 0.0 if common is None else found[common].other_seconds
    named = set(plain)
    if common is not None:
        rest += sum(layer.seconds for layer in found[common].layers if layer.weight not in named)
    costs = []
    for one in chosen:
        name, float_form = one.candidate.name, plain[one.candidate.name]
        row = []
        for option in one.options:
            form = _of(option, float_form) or float_form
            row.append(1e3 * sum(_seconds(layer, option, form, device.target) for layer in by_weight[form][name]))
        costs.append(tuple(row))
    return Costs(tuple(costs), 1e3 * rest)


def _of(option: Option, plain: Arithmetic | None) -> Arithmetic | None:
    """The arithmetic of an option; that of float for what is weight only, or not quantized."""
    if option.format is None or not option.format.reads_data:
        return plain
    return Arithmetic.INT8 if option.format.grid.name == "int8" else Arithmetic.FP8


def _arithmetic(candidate: Candidate, target: Target) -> Arithmetic:
    kind = candidate.uses[0].tensor.dtype.short
    if kind in ("f16", "bf16"):
        return Arithmetic.FP16 if kind == "f16" else Arithmetic.BF16
    return Arithmetic.TF32 if Arithmetic.TF32 in target.peak else Arithmetic.FP32


def _by_weight(layers: Sequence[LayerGain]) -> Mapping[str, list[LayerGain]]:
    found: dict[str, list[LayerGain]] = {}
    for layer in layers:
        found.setdefault(layer.weight, []).append(layer)
    return found


def _seconds(layer: LayerGain, option: Option, form: Arithmetic, target: Target) -> float:
    seconds = layer.sparse_seconds if option.sparse else layer.seconds
    if option.format is None or option.format.reads_data or not layer.intensity:
        return seconds
    # Weights alone are smaller: the bytes of the layer, less those that its weight does not take any more.
    size = 1
    for axis in layer.shape:
        size *= axis
    moved = 2 * layer.macs / layer.intensity - size * (form.bits - option.format.grid.bits) / 8
    least = max(2 * layer.macs / target.peak[form], moved / target.bandwidth)
    return min(seconds, least) if layer.bound != "measured" else seconds
