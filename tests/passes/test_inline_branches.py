"""`inline-branches`: what an If always does is done without it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import graphs
from helpers.graphs import Net, random_feeds

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.build import add_constant, emit
from secateur.passes import Context, run_pipeline
from secateur.passes.cleanup.branches import InlineBranches
from secateur.passes.cleanup.clean import Clean
from secateur.passes.settings import Check, Settings

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


def _inlined(graph: Graph, *passes: Any) -> Graph:
    result = run_pipeline(
        graph, passes or (InlineBranches(),), Context(runner=_RUNNER), settings=Settings(check=Check.FULL)
    )
    result.graph.verify()
    return result.graph


def _types(graph: Graph) -> list[str]:
    return [op.op_type for op in graph.ops()]


def _answers(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    feeds = random_feeds(graph, seed)
    with _RUNNER(graph) as runner:
        return [runner.run(feeds)[value.name] for value in graph.outputs]


@pytest.mark.parametrize(("condition", "types"), [(True, ["Mul"]), (False, ["Mul", "Neg"])])
def test_the_branch_that_is_taken_stays_with_its_names(condition: bool, types: list[str]) -> None:
    graph = graphs.decided_if()
    if condition:
        graph.replace_all_uses(graph["decided"], add_constant(graph, "otherwise", np.array(True)))
    done = _inlined(graph)
    assert _types(done) == ["Relu", *types, "Sigmoid"]
    names = {value.name for value in done.values()}
    assert names >= ({"many", "times"} if condition else {"few", "less", "minus"})
    assert not names & ({"few", "less"} if condition else {"many", "times"})
    np.testing.assert_array_equal(_answers(done), _answers(graph))


def test_what_is_not_known_stays() -> None:
    graph = graphs.nested_if()
    assert str(_inlined(graph)) == str(graph)


def test_ifs_inside_of_ifs_go_together() -> None:
    graph = graphs.nested_if()
    condition = graph["condition"]
    graph.replace_all_uses(condition, add_constant(graph, "always", np.array(True)))
    graph.set_interface(inputs=[value for value in graph.inputs if value is not condition])
    graph.remove(condition)
    feeds = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    done = _inlined(graph)
    assert _types(done) == ["Relu", "Mul"]
    with _RUNNER(graph) as before, _RUNNER(done) as after:
        for one, other in zip(before.run(feeds).values(), after.run(feeds).values(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_outputs_keep_their_names_whatever_a_branch_gives() -> None:
    """One output is made in the branch, one is a value of the graph around, one a constant of the branch."""
    net = Net("outputs")
    x, which = net.input("x", 3), net.constant("which", np.bool_(True))
    yes, no = net.body("yes"), net.body("no")
    yes.done((yes.op("Neg", x), (3,)), (x, (3,)), (yes.weight("w", 3), (3,)))
    no.done(*((no.op("Abs", x), (3,)) for _ in range(3)))
    branches = {"then_branch": yes.graph, "else_branch": no.graph}
    op = emit(net.graph, "If", [which], branches, outputs=["a", "b", "c"])
    net.done(*((value, (3,)) for value in op.outputs if value is not None))
    done = _inlined(net.graph)
    assert [value.name for value in done.outputs] == ["a", "b", "c"]
    assert sorted(_types(done)) == ["Identity", "Identity", "Neg"]


def test_clean_sees_that_a_size_decides() -> None:
    """torch writes a squeeze so: `If(Shape(x)[0] == 4)`."""
    net = Net("size")
    x = net.input("x", 4, 3)
    size = net.op("Gather", net.op("Shape", x), net.constant("first", np.int64(0)))
    which = net.op("Equal", size, net.constant("four", np.int64(4)))
    yes, no = net.body("yes"), net.body("no")
    yes.done((yes.op("Neg", x), (4, 3)))
    no.done((no.op("Abs", x), (4, 3)))
    net.done((net.op("If", which, then_branch=yes.graph, else_branch=no.graph), (4, 3)))
    assert _types(_inlined(net.graph, Clean())) == ["Neg"]
