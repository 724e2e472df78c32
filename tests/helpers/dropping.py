"""The dense half of the oracle for blocks: a graph in which their branches are multiplied by zero."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from helpers.zoo import random_feeds

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph, TensorType
from secateur.ir.build import add_constant, emit
from secateur.ir.node import Value
from secateur.ir.onnx_shapes import infer
from secateur.ir.onnx_write import to_bytes
from secateur.ir.removable import Removable, removable_blocks
from secateur.ir.residual import sum_rules
from secateur.ir.rules.known import Known
from secateur.passes import Context, run_pipeline
from secateur.passes.drop.blocks import DropBlocks
from secateur.passes.settings import Check, Settings

SIMPLIFIED = "llama-fused"
"""Has an op of the default domain that onnxruntime runs and onnx does not know."""


def found_in(graph: Graph) -> list[Removable]:
    return removable_blocks(Known(graph, infer(graph)))


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with OnnxRuntimeRunner(graph) as runner:
        return dict(runner.run(feeds))


def dropped(graph: Graph, names: Sequence[str]) -> Graph:
    return run_pipeline(graph, [DropBlocks(names=tuple(names))], Context(), settings=Settings(check=Check.FULL)).graph


def silenced(graph: Graph, names: Sequence[str]) -> Graph:
    """A copy in which the branches of some blocks are multiplied by zero, or what a block makes is what it is given."""
    graph = graph.clone()
    for block in [block for block in reversed(found_in(graph)) if block.name in names]:
        for term in block.terms:
            (op, port) = next((op, port) for op, port in graph.uses(term) if sum_rules.get(op))
            rule = sum_rules.get(op)
            graph.set_inputs(op, [zero(graph, old) if at == port else old for at, old in enumerate(op.inputs)])
            if rule and rule.bias is not None and (bias := op.input(rule.bias)):
                graph.set_inputs(
                    op, [zero(graph, bias) if at == rule.bias else old for at, old in enumerate(op.inputs)]
                )
        if not block.terms:
            given = emit(graph, "Identity", [block.entry]).output
            for op, port in graph.uses(block.exit):
                graph.set_inputs(op, [given if at == port else old for at, old in enumerate(op.inputs)])
            graph.set_interface(outputs=[given if value is block.exit else value for value in graph.outputs])
    return graph


def zero(graph: Graph, value: Value | None) -> Value:
    assert value is not None
    kind = infer(graph).get(value)
    dtype = kind.dtype.numpy if isinstance(kind, TensorType) else np.dtype(np.float32)
    return emit(graph, "Mul", [value, add_constant(graph, "zero", np.zeros((), dtype))]).output


def check_alike(name: str, dense: Graph, small: Graph, names: Sequence[str]) -> None:
    """Both compute the same, to rounding; the small one is a model by onnx's standards, and has fewer ops."""
    feeds = random_feeds(dense, 3)
    wanted, got = run(silenced(dense, names), feeds), run(small, feeds)
    assert [value.name for value in small.outputs] == [value.name for value in dense.outputs] == list(got)
    for one, other in zip(wanted.values(), got.values(), strict=True):
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            assert np.abs(one - other).max() <= 1e-5 * (np.abs(one).max() + 1e-3)
    if name != SIMPLIFIED:
        onnx.checker.check_model(onnx.ModelProto.FromString(to_bytes(small)))
    assert len(small.ops()) < len(dense.ops())
