"""Attributes, outputs and inputs of operators that TensorRT has, but not in this variant."""

from __future__ import annotations

from secateur.backends.tensorrt.lint.finding import Source
from secateur.backends.tensorrt.lint.folding import float_input_behind
from secateur.backends.tensorrt.lint.rule import Check, Rule, says
from secateur.backends.tensorrt.lint.site import Site

_REDUCTIONS = tuple(f"Reduce{name}" for name in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split())
_MODES = frozenset({"align_corners", "asymmetric", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"})
_THROUGH = frozenset({"Cast", "Identity"})
"""Ops that the parser looks through when it needs the numbers of a constant."""


def _one_output(site: Site) -> str | None:
    return f"it has {site.outputs} outputs, of which TensorRT makes the first only" if site.outputs > 1 else None


def _dilated(site: Site) -> str | None:
    dilations = site.integers("dilations")
    return f"pooling with dilations {list(dilations)}" if any(step != 1 for step in dilations) else None


def _batch_normalization(site: Site) -> str | None:
    return "training_mode=1" if site.op.attribute("training_mode", 0) else None


def _dropout(site: Site) -> str | None:
    mode = site.numbers(2)
    if site.opset < 12 or not site.has(2) or (mode is not None and not mode.any()):
        return None
    return "dropout in training mode" if mode is not None else "whether it trains is computed"


def _resize_mode(site: Site) -> str | None:
    mode = site.text("coordinate_transformation_mode", "half_pixel")
    return None if mode in _MODES or site.opset < 11 else f"coordinate_transformation_mode={mode}"


def _resize_ratio(site: Site) -> str | None:
    policy = site.text("keep_aspect_ratio_policy", "stretch")
    return None if policy == "stretch" else f"keep_aspect_ratio_policy={policy}"


def _reduction(*refused: str) -> Check:
    def check(site: Site) -> str | None:
        found = site.text("reduction", "none")
        return f"reduction={found}" if found in refused else None

    return check


def _lp_pool(site: Site) -> str | None:
    order = site.op.attribute("p", 2)
    return None if order in (1, 2) else f"p={order}; TensorRT has the norms 1 and 2"


def _computed_axes(site: Site) -> str | None:
    if not site.has(1) or site.is_constant(1):
        return None
    made = site.producer(1)
    while made is not None and made.op_type in _THROUGH:
        if site.known.constant(made.input(0)) is not None:
            return None
        source = made.input(0)
        owner = None if source is None else site.graph.owner(source)
        made = None if owner is None or source is None else owner.producer(source)
    return "its axes are computed; TensorRT wants them as a constant"


def _tensor_scatter(site: Site) -> str | None:
    mode = site.text("mode", "linear")
    if mode != "linear":
        return f"mode={mode}"
    if site.rank(0) not in (4, None):
        return f"its cache has {site.rank(0)} axes, not 4"
    return "its update is a constant" if site.is_constant(1) else None


def _vector_by_stack(site: Site) -> str | None:
    if site.rank(0) == 1 and (site.rank(1) or 0) > 2:
        return "a vector times a stack of matrices"
    return None


def _float_shape(port: int, what: str) -> Check:
    """What decides on a shape must come from integers, if it comes from an input at all."""

    def check(site: Site) -> str | None:
        found = float_input_behind(site.known, site.op.input(port))
        return None if found is None else f"its {what} depends on the float input {found.name!r}"

    return check


def _initializer(*ports: int) -> Check:
    def check(site: Site) -> str | None:
        wrong = [port for port in ports if site.has(port) and not site.is_constant(port)]
        return f"its input {wrong[0]} is computed; TensorRT wants a constant" if wrong else None

    return check


def _resize_axes(site: Site) -> str | None:
    axes, rank = site.integers("axes"), site.rank(0)
    if not axes or rank is None or site.is_folded(2) or not site.has(2) or axes == tuple(range(rank)):
        return None
    return "its scales are computed, for some of its axes"


def _range(site: Site) -> str | None:
    """The length of a range is a shape, and so is all that it is computed from."""
    found = (float_input_behind(site.known, site.op.input(port)) for port in range(3))
    value = next((one for one in found if one is not None), None)
    return None if value is None else f"its length depends on the float input {value.name!r}"


def _branch_ranks(site: Site) -> str | None:
    if site.is_folded(0) or len(site.op.bodies()) != 2:
        return None
    first, second = site.op.bodies()
    for one, other in zip(first.outputs, second.outputs, strict=False):
        ranks = {site.known.rank(one), site.known.rank(other)} - {None}
        if len(ranks) == 2:
            return f"its branches give tensors of {' and '.join(map(str, sorted(ranks, key=str)))} axes"
    return None


def _split(site: Site) -> str | None:
    parts = site.op.attribute("num_outputs", 0)
    size = site.known.size(site.op.input(0), site.op.attribute("axis", 0))
    if not parts or size is None or site.has(1) or -(-size // parts) * (parts - 1) <= size:
        return None
    return f"{parts} equal parts of {size} leave less than nothing for the last"


_SAME_RANK = (
    "reshape what the branches give to the same number of axes; where sizes decide, fix those of the inputs and run "
    "the pass clean, which leaves one branch"
)

RULES: tuple[Rule, ...] = (
    Rule(
        ("Attention", "BatchNormalization", "LayerNormalization", "MaxPool"),
        _one_output,
        "take the other outputs away if nothing reads them, or compute them with other operators",
    ),
    Rule(("AveragePool", "LpPool", "MaxPool"), _dilated, "write it as a convolution, or as slices and a maximum"),
    Rule(("BatchNormalization",), _batch_normalization, "export the model in inference mode"),
    Rule(("Dropout",), _dropout, "export the model in inference mode"),
    Rule(("Resize",), _resize_mode, f"use one of {', '.join(sorted(_MODES))}"),
    Rule(("Resize",), _resize_ratio, "compute the sizes outside, and stretch"),
    Rule(
        ("Resize",),
        says(lambda site: bool(site.op.attribute("antialias", 0)), "antialias=1"),
        "blur before it with a convolution, or leave antialiasing out",
    ),
    Rule(("ScatterND",), _reduction("add", "mul", "max", "min"), "write it as GatherND, the operation and ScatterND"),
    Rule(("ScatterElements",), _reduction("add", "mul", "max", "min"), "write it with one-hot masks"),
    Rule(("LpPool",), _lp_pool, "write it with Pow and AveragePool"),
    Rule(_REDUCTIONS, _computed_axes, "make the axes an initializer (the pass fold-constants does)"),
    Rule(("TensorScatter",), _tensor_scatter, "write it as ScatterND or as a Where over positions", Source.BUILDER),
    Rule(("MatMul",), _vector_by_stack, "unsqueeze the vector to a matrix, and squeeze the product"),
    Rule(("Squeeze", "Unsqueeze"), _computed_axes, "make the axes an initializer (the pass fold-constants does)"),
    Rule(("STFT",), _initializer(1), "make it an initializer (the pass fold-constants does)"),
    Rule(("Loop",), _float_shape(0, "trip count"), "count in int64"),
    Rule(("OneHot",), _float_shape(1, "depth"), "make the depth int64, or a constant"),
    Rule(("Resize",), _float_shape(2, "scales"), "make the scales a constant, or give sizes"),
    Rule(("Upsample",), _float_shape(1, "scales"), "make the scales a constant, or give sizes with Resize"),
    Rule(("Resize",), _resize_axes, "make the scales a constant"),
    Rule(("Range",), _range, "count in int64, and cast the range"),
    Rule(("If",), _branch_ranks, _SAME_RANK, Source.BUILDER),
    Rule(("Split",), _split, "give the sizes of the parts"),
)
