"""Whether weights are 2:4 sparse, whether a sparse kernel can take them, and whether one did, as far as can be known.

TensorRT-RTX chooses kernels on the device and says nothing of sparsity at build time, so that all there is without a
GPU is our own verdict; `tensorrt` names the layers that it chose in its log, and kernels by their tactics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from secateur.backends.tensorrt.errors import SparsityNotHonoured
from secateur.backends.tensorrt.layers import Layer, kernels_by_node
from secateur.backends.tensorrt.messages import Message
from secateur.ir import DataType, Graph, Op
from secateur.ir.known_targets import BY_CAPABILITY, find_target
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.sparse_kernels import INPUTS, OUTPUTS, ineligible, unfit
from secateur.ir.rules.weights import WeightUse
from secateur.ir.sparsity import Sparsity, sparsities
from secateur.ir.sparsity_scheme import SparsityScheme
from secateur.ir.targets import Format

Tactic = Literal["sparse", "dense", "unknown"]

UNKNOWN = "tactic use unknown"
"""What is said wherever nobody told which kernels were chosen."""

_CHOSEN = re.compile(r"^\(Sparsity\) .*?(?:picked sparse implementation for layers|[Cc]hose .*?)\s*:(?P<names>.*)$")
_SPARSE_TACTIC = re.compile(r"sparse|spgemm|_sp_", re.IGNORECASE)
_STUB = re.compile(r"^$|stub|__myl", re.IGNORECASE)
_FORMATS = (("Int8", Format.INT8), ("FP8", Format.FP8), ("Half", Format.FP16), ("BFloat16", Format.BF16))
_CODES = {
    DataType.INT8: Format.INT8,
    DataType.FLOAT8E4M3FN: Format.FP8,
    DataType.FLOAT16: Format.FP16,
    DataType.BFLOAT16: Format.BF16,
}
_MOST_NAMED = 8


@dataclass(frozen=True)
class WeightVerdict:
    """One weight as one node reads it.

    `axis` is the one that is summed over, of the constant as it is stored, `size` how many numbers that are at each tap
    of a kernel. `is_sparse`: 2:4 holds along it, whatever lies between: Cast, Transpose, or Q/DQ (`quantized`).
    `aligned`: inputs and outputs are multiples that sparse kernels want in `format`, the one that the node is computed
    in. `eligible`: it is 2:4, and every target has a sparse kernel for such a layer; `reason` says why not. `promised`
    is the pattern that the model's own mark promises, `kept` whether it is there. `tactic`: what was chosen.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    axis: int
    size: int
    zeros: float
    pattern: str | None
    is_sparse: bool
    quantized: bool
    format: str
    aligned: bool
    eligible: bool
    reason: str | None
    promised: str | None
    kept: bool
    tactic: Tactic

    def __str__(self) -> str:
        return f"{self.node}, weight {self.weight}" + (f": {self.reason}" if self.reason else "")


def weight_verdicts(
    graph: Graph, targets: Sequence[str], layers: Iterable[Layer], lines: Sequence[str]
) -> tuple[WeightVerdict, ...]:
    """A verdict for every weight of a model, those in bodies and functions behind those of the graph itself.

    Args:
        graph: the model that was built.
        targets: compute capabilities; without any, weights are held against no device.
        layers: the kernels of the engine, from which formats and tactics are read; () where they are not known.
        lines: what the builder says of sparsity.
    """
    kernels = kernels_by_node(layers)
    chosen = _chosen(lines)
    found: list[WeightVerdict] = []
    for whole in (graph, *graph.functions.values()):
        for part in whole.graphs():
            known = Known(part, infer(graph)) if part is graph else Known(part)
            seen = list(sparsities(known))
            readers: dict[str, list[WeightUse]] = {}
            for one in seen:
                readers.setdefault(one.use.weight.name, []).append(one.use)
            for one in seen:
                own = kernels.get(_node(one.use.op), ())
                form = _format(one.use, own)
                refusal = _refusal(one, readers[one.use.weight.name], known, form, targets)
                found.append(_verdict(one, form, refusal, _tactic(_node(one.use.op), own, chosen)))
    return tuple(found)


def broken_promises(graph: Graph) -> tuple[str, ...]:
    """Constants that are marked as sparse and are not, each with its mark; whoever reads them."""
    found = []
    for whole in (graph, *graph.functions.values()):
        for part in whole.graphs():
            for value in part.constants():
                scheme = SparsityScheme.of(value) if value.metadata else None
                if scheme is not None and value.const is not None and not scheme.holds(value.const):
                    found.append(f"{value.name} (promises {scheme})")
    return tuple(found)


def require_sparse(
    weights: Sequence[WeightVerdict], broken: Sequence[str], model: str, log: Sequence[Message] = ()
) -> None:
    """Passes when the model keeps what it promises, holds 2:4 weights, and no eligible layer is known to stay dense.

    Raises:
        SparsityNotHonoured: names the weights.
    """
    if broken:
        raise SparsityNotHonoured(
            f"{model}: weights are marked as sparse and are not: {_few(broken)}",
            [one for one in weights if not one.kept],
            hint="run the pass that made them sparse again, after all that changes weights",
            log=log,
        )
    if not any(one.is_sparse for one in weights):
        raise SparsityNotHonoured(
            f"{model}: sparse weights are required, but none of its {len(weights)} weights is 2:4 along the axis that "
            "is summed over",
            weights,
            hint="`secateur sparsity` says of each why not; sparsify{pattern=2:4} makes them so",
            log=log,
        )
    if not any(one.eligible for one in weights):
        reasons = dict.fromkeys(str(one) for one in weights if one.is_sparse)
        raise SparsityNotHonoured(
            f"{model}: no sparse kernel can take any of its 2:4 weights: {_few(tuple(reasons), '; ')}",
            [one for one in weights if one.is_sparse],
            hint="`secateur advise --sparsity` says what each target can take",
            log=log,
        )
    dense = [one for one in weights if one.eligible and one.tactic == "dense"]
    if dense:
        raise SparsityNotHonoured(
            f"{model}: TensorRT computes {len(dense)} layers densely that could take sparse kernels: "
            f"{_few(tuple(one.node for one in dense))}",
            dense,
            hint="it takes the faster one: dense kernels are, for layers this small; do not require sparse ones there",
            log=log,
        )


def remarks(weights: Sequence[WeightVerdict], asked: bool) -> Iterator[str]:
    """What must be said of sparse weights: how many, how many eligible, and whether anybody knows what became of it."""
    sparse = [one for one in weights if one.is_sparse]
    eligible = [one for one in sparse if one.eligible]
    if not sparse and not asked:
        return
    share = f"{len(sparse)} of {len(weights)} weights are 2:4, {len(eligible)} of them eligible for sparse kernels"
    if not eligible:
        yield share
        return
    if not asked:
        yield f"{share}; none is taken, for sparse weights were not asked for"
        return
    taken, unknown = (sum(one.tactic == word for one in eligible) for word in ("sparse", "unknown"))
    if unknown == len(eligible):
        yield f"{share}; sparse {UNKNOWN}: the builder does not say which kernels it took"
    else:
        yield f"{share}; {taken} take one" + (f", {UNKNOWN} of {unknown}" if unknown else "")


def _verdict(one: Sparsity, form: Format, refusal: str | None, tactic: Tactic) -> WeightVerdict:
    use = one.use
    scheme = SparsityScheme.of(use.weight) if use.weight.metadata else None
    sparse = one.holds(2, 4)
    reason = one.reason(2, 4) if not sparse else refusal
    return WeightVerdict(
        node=_node(use.op),
        weight=use.weight.name,
        shape=use.tensor.shape,
        axis=use.contracted,
        size=one.size,
        zeros=one.zeros,
        pattern=one.pattern,
        is_sparse=sparse,
        quantized=any(op.op_type == "DequantizeLinear" for op in use.chain),
        format=form.value,
        aligned=use.inputs % INPUTS.get(form, 4) == 0 and use.outputs % OUTPUTS == 0,
        eligible=sparse and reason is None,
        reason=reason,
        promised=None if scheme is None else str(scheme),
        kept=scheme is None or scheme.holds(use.tensor),
        tactic=tactic,
    )


def _refusal(
    one: Sparsity, readers: Sequence[WeightUse], known: Known, form: Format, targets: Sequence[str]
) -> str | None:
    """Why no sparse kernel takes the layer: on one of the targets, or anywhere."""
    for name in targets:
        if name in BY_CAPABILITY and (reason := unfit(find_target(name), form)):
            return reason
    if form not in INPUTS:
        return f"{form} products have no 2:4 kernels"
    # What makes 2:4 vain whatever the layer (a zero point, say) is the last thing that `reason` looks at.
    return ineligible(one.use, readers, known, form) or one.reason(2, 4)


def _format(use: WeightUse, kernels: Sequence[Layer]) -> Format:
    """What the node is computed in: by its kernels, or else by what the weight is stored in."""
    for kernel in kernels:
        if kernel.contracts and kernel.inputs:
            word = kernel.outputs[0].dtype if kernel.dequantizes and kernel.outputs else kernel.inputs[0].dtype
            return next((form for start, form in _FORMATS if word.startswith(start)), Format.FP32)
    return _CODES.get(use.tensor.dtype, Format.FP32)


def _tactic(node: str, kernels: Sequence[Layer], chosen: frozenset[str] | None) -> Tactic:
    """By the builder's own lines where it wrote some, by the name of the kernel otherwise."""
    if chosen is not None:
        return "sparse" if node in chosen else "dense"
    tactics = [kernel.tactic for kernel in kernels if kernel.contracts]
    if not tactics or any(_STUB.search(name) for name in tactics):
        return "unknown"
    return "sparse" if any(_SPARSE_TACTIC.search(name) for name in tactics) else "dense"


def _chosen(lines: Sequence[str]) -> frozenset[str] | None:
    """The nodes of layers that the builder says it chose sparse kernels for; None where it does not speak of that."""
    matches = [match["names"] for match in map(_CHOSEN.match, lines) if match]
    if not matches:
        return None
    # A layer that several nodes were fused into is named "conv1 + relu1".
    return frozenset(
        node.strip() for names in matches for layer in names.split(",") for node in layer.split(" + ") if node.strip()
    )


def _node(op: Op) -> str:
    """How TensorRT calls a node."""
    made = next((value.name for value in op.outputs if value is not None), "")
    return op.name or f"node_of_{made}"


def _few(names: Sequence[str], joint: str = ", ") -> str:
    more = f"{joint}and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return joint.join(names[:_MOST_NAMED]) + more
