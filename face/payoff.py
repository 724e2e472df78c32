"""What the 2:4 weights of an engine can be worth at most, said beside it: "sparse" is not "faster"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from secateur.backends.tensorrt import BuildReport
from secateur.ir import Graph
from secateur.ir.errors import DataError
from secateur.ir.known_targets import BY_CAPABILITY, find_target
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.sizes import input_shapes, with_sizes
from secateur.ir.targets import Format
from secateur.passes.layers.gains import Question, network_gain


def payoff(graph: Graph, report: BuildReport) -> tuple[str, ...]:
    """A sentence for each target: how many times as fast the network becomes at most if sparse kernels are taken.

    () where no weight is eligible for one, no target is named, or the sizes of the first profile leave some open.
    """
    return tuple(_sentences(graph, report))


def _sentences(graph: Graph, report: BuildReport) -> Iterator[str]:
    eligible = {one.weight: Format(one.format) for one in report.weights if one.eligible}
    if not eligible:
        return
    try:
        sized = with_sizes(graph, _shapes(graph, report))
    except DataError:
        return
    [(form, _)] = Counter(eligible.values()).most_common(1)
    known = Known(sized, infer(sized))
    for name in report.targets:
        device = find_target(name) if name in BY_CAPABILITY else None
        if device is None or form not in device.peak:
            continue
        found = network_gain(known, Question(device, form, least=1.0))
        saved = sum(one.seconds - one.sparse_seconds for one in found.layers if one.weight in eligible)
        gain = found.seconds / (found.seconds - saved) if found.seconds > saved else 1.0
        yield (
            f"2:4 is worth at most {gain:.2f} times as fast end to end on {device.title}, every float in {form}: by "
            "the roofline, nothing was measured"
        )


def _shapes(graph: Graph, report: BuildReport) -> Mapping[str, tuple[int, ...]]:
    """The most frequent sizes of the first profile; those of inputs whose values are a shape are no sizes."""
    ranks = {name: len(shape) for name, shape in input_shapes(graph).items()}
    ranges = report.profiles[0].ranges if report.profiles else ()
    return {one.input: one.opt for one in ranges if ranks.get(one.input) == len(one.opt)}
