"""The second opinion, on graphs whose units are known by thinking: from any member, in every way to see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from helpers import graphs
from helpers.closure_masks import Misfit
from helpers.graphs import Net
from helpers.mask_closure import Closure, MaskClosure, blocked, check_unit
from helpers.structure_units import UNITS, Named, made, named_unit, stretch
from helpers.structures import structures

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir.build import emit
from secateur.ir.onnx_shapes import infer

_RUNNER = partial(OnnxRuntimeRunner, optimize=False, threads=1)


@cache
def _closure(name: str) -> MaskClosure:
    return MaskClosure.of(structures()[name]())


INEXACT = {("group_norm", "offset"), ("embedded_trunk", "trunk")}
CASES = [(name, kind) for name, units in UNITS.items() for kind in units]


@pytest.mark.parametrize("name", structures())
def test_structures_are_valid_and_repeatable(name: str) -> None:
    graph, again = structures()[name](), structures()[name]()
    graph.verify()
    assert str(graph) == str(again)
    feeds = graphs.random_feeds(graph)
    with _RUNNER(graph) as runner:
        outputs = runner.run(feeds)
    assert all(np.isfinite(array).all() and array.std() > 0 for array in outputs.values())
    assert name in UNITS


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_units_are_as_known(name: str, kind: str) -> None:
    """The whole unit follows from each of its places; nothing is ragged, pinned or too much; no part can go alone."""
    closure = _closure(name)
    assert check_unit(closure, named_unit(closure, UNITS[name][kind])) is None
    assert check_unit(closure, named_unit(closure, UNITS[name][kind]), most=2) is None


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_exactness_is_as_known(name: str, kind: str) -> None:
    closure = _closure(name)
    place, axes = next(iter(named_unit(closure, UNITS[name][kind]).items()))
    axis, indices = next(iter(axes.items()))
    assert bool(closure.close(place, axis, indices).inexact) is ((name, kind) in INEXACT)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_index_leads_to_the_unit(name: str, kind: str) -> None:
    """One index alone may be seen in several ways; the known unit is among the smallest sets that have it."""
    closure = _closure(name)
    unit = named_unit(closure, UNITS[name][kind])
    place, axes = next(iter(unit.items()))
    axis, indices = next(iter(axes.items()))
    found = closure.smallest(place, axis, indices[-1])
    assert [other.of_constants for other in found].count(unit) == 1
    assert all(blocked(other) or indices[-1] in other.removed[place][axis] for other in found)


def test_one_index_is_a_head_or_a_width_and_nothing_else() -> None:
    closure = _closure("attention")
    found = closure.smallest(closure.use("query.weight"), 1, 7)
    known = [named_unit(closure, UNITS["attention"][kind]) for kind in ("head", "query and key width")]
    assert len(found) == 2
    assert all(unit in [other.of_constants for other in found] for unit in known)


def test_closing_again_adds_nothing() -> None:
    for name, kind in CASES:
        closure = _closure(name)
        found = closure.close_all(named_unit(closure, UNITS[name][kind]))
        assert closure.close_all(found.removed).removed == found.removed


def test_units_of_an_axis_cut_it_up() -> None:
    """The smallest sets of every index of a weight's axis: of one kind, every index is in exactly one."""
    closure = _closure("fused_qkv_split")
    place = closure.use("fused.weight")
    units = {tuple(found.removed[place][1]) for index in range(39) for found in closure.smallest(place, 1, index)}
    heads = {unit for unit in units if len(unit) == 13}
    widths = units - heads
    assert sorted(index for unit in heads for index in unit) == list(range(39))
    assert sorted(index for unit in widths for index in unit) == list(range(39))


# ---- claims that are wrong -----------------------------------------------------------------------------------------


def _changed(name: str, kind: str, change: Callable[[dict[str, Any]], None]) -> str:
    closure = _closure(name)
    named = {key: dict(axes) for key, axes in UNITS[name][kind].items()}
    change(named)
    answer = check_unit(closure, named_unit(closure, named))
    assert answer is not None
    return answer


def test_a_unit_that_lacks_a_place() -> None:
    answer = _changed("attention", "head", lambda unit: unit.pop("key.bias"))
    assert answer == "axis 0 of %key.bias at input 1 of Add '/key' loses [4, 5, 6, 7], which the unit does not say"
    assert check_unit(_closure("attention"), {}) == "the unit has no place"


def test_a_unit_that_lacks_an_index() -> None:
    answer = _changed("attention", "query and key width", lambda unit: unit["key.bias"].update({0: [3, 7]}))
    assert "%key.bias" in answer and "loses [3, 7, 11], not [3, 7]" in answer


def test_a_unit_that_has_an_index_too_many() -> None:
    answer = _changed("gated_ffn", "neuron", lambda unit: unit["up.weight"].update({1: [11, 12]}))
    assert "loses [11, 12], not [11]" in answer


def test_a_unit_that_has_a_place_too_many() -> None:
    answer = _changed("residual_trunk", "inner", lambda unit: unit.update({"stem.bias": {0: [0]}}))
    assert "loses [0], which the unit does not say" in answer


def test_a_unit_that_is_pinned() -> None:
    closure = _closure("residual_trunk")
    assert check_unit(closure, named_unit(closure, made("head", [1]))) == "'gemm' is an output of the graph"


def test_a_unit_that_is_ragged() -> None:
    closure = _closure("attention")
    unit = named_unit(closure, {**made("query", [5], 1), **made("key", [5], 1)})
    assert str(check_unit(closure, unit)).startswith("ragged: 'query_heads', [2, 5, 3, 4]: 10 elements")


def test_two_units_that_are_sold_as_one() -> None:
    def join(unit: dict[str, Any]) -> None:
        unit.update({name: {axis: [*indices, 12]} for name, axes in unit.items() for axis, indices in axes.items()})

    assert "could go without the rest" in _changed("gated_ffn", "neuron", join)


def test_two_heads_that_are_sold_as_one() -> None:
    def join(unit: dict[str, Any]) -> None:
        for name in (
            "query.weight",
            "query.bias",
            "key.weight",
            "key.bias",
            "value.weight",
            "value.bias",
            "output.weight",
        ):
            unit[name] = {axis: stretch(0, 2 * len(indices)) for axis, indices in unit[name].items()}

    assert "could go without the rest" in _changed("attention", "head", join)


def test_a_ragged_seed_names_the_tensor() -> None:
    closure = _closure("attention")
    found = closure.close(closure.use("query.weight"), 1, [5])
    assert any("query_heads" in str(misfit) for misfit in found.misaligned)
    assert blocked(found)[0].startswith("ragged: 'query_")


def test_a_policy_settles_what_is_ragged() -> None:
    closure = _closure("attention")
    place = closure.use("query.weight")

    def along(size: int) -> Callable[[Misfit], int]:
        """Along the axis of this size; there are 3 heads, and widths of 4."""
        return lambda misfit: next(k for k in misfit.choices if misfit.residue.shape[k] == size)

    for size, kind in ((3, "head"), (4, "query and key width")):
        found = closure.close(place, 1, [7], along(size))
        assert found.of_constants == named_unit(closure, UNITS["attention"][kind])


# ---- what cannot go ------------------------------------------------------------------------------------------------


def _kinds(closure: Closure) -> set[str]:
    return {reason.kind for reason in closure.pinned}


def test_interfaces_are_pinned() -> None:
    closure = _closure("attention")
    inward = closure.close(closure.use("query.weight"), 0, [3])
    outward = closure.close(closure.use("output.weight"), 1, [3])
    assert _kinds(inward) == _kinds(outward) == {"interface"}
    assert "'x' is an input of the graph" in blocked(inward)
    assert inward.removed[closure.use("key.weight")] == {0: [3]}


def test_kernels_tables_and_softmax_are_pinned() -> None:
    conv, table, scores = _closure("conv_bn_relu_conv"), _closure("embedded_trunk"), _closure("attention")
    assert _kinds(conv.close(conv.use("first.weight"), 2, [0])) == {"kernel"}
    assert _kinds(table.close(table.use("table"), 0, [3])) == {"data"}
    softmax = next(op for op in scores.graph.ops() if op.op_type == "Softmax")
    found = scores.close(softmax.output, 3, [1])
    assert {"softmax", "interface"} <= _kinds(found)
    assert not any("softmax" in reason for reason in blocked(found, tolerate={"softmax"}))


def test_what_is_flattened_from_a_place_is_pinned() -> None:
    closure = _closure("flatten_gemm")
    found = closure.close(closure.use("fc1.weight"), 1, stretch(1, 20, 3))
    assert found.misaligned
    column = closure.close(closure.use("fc1.weight"), 1, stretch(1, 15, 4))
    assert not column.misaligned and _kinds(column) == {"kernel"}


def test_an_unknown_op_is_pinned() -> None:
    net = Net("unknown")
    value = net.op("MatMul", net.input("x", 2, 3), net.weight("w", 3, 5))
    value = net.op("Det", net.op("Reshape", value, net.constant("shape", np.array([2, 5, 1]))))
    graph = net.done((value, (2,)))
    closure = MaskClosure(graph, infer(graph))
    assert _kinds(closure.close(closure.use("w"), 1, [1])) == {"unknown"}


@pytest.mark.parametrize("name", ["if_captures", "nested_if"])
def test_what_a_body_reads_is_pinned(name: str) -> None:
    graph = graphs.tiny_graphs()[name]()
    closure = MaskClosure(graph, infer(graph))
    value = next(op.output for op in graph.ops() if op.op_type in ("MatMul", "Relu"))
    assert any("no rule for this op (If" in reason for reason in blocked(closure.close(value, 1, [1])))


def test_nothing_left_is_said() -> None:
    closure = _closure("gated_ffn")
    found = closure.close(closure.use("up.weight"), 1, range(13))
    assert "nothing of 'up' would be left" in blocked(found)
    assert closure.use("gate.weight") in found.emptied


def test_a_weight_that_is_an_output_is_pinned() -> None:
    graph = graphs.weight_output()
    closure = MaskClosure(graph, infer(graph))
    assert "interface" in _kinds(closure.close(closure.use("w"), 0, [1]))


def test_a_default_that_callers_may_override_is_pinned() -> None:
    graph = graphs.overridable_input()
    closure = MaskClosure(graph, infer(graph))
    found = closure.close(closure.use("w"), 1, [1])
    assert any("'gain' is an input" in reason for reason in blocked(found))


def test_uses_of_a_shared_constant_do_not_tie() -> None:
    graph = graphs.shared_weight()
    closure = MaskClosure.of(graph)
    found = closure.close(closure.use("tied", 0), 1, [2])
    assert found.of_constants == {closure.use("tied", 0): {1: [2]}, closure.use("tied", 1): {0: [2]}}


# ---- shapes that are computed --------------------------------------------------------------------------------------


def test_symbolic_sizes_are_measured() -> None:
    closure = MaskClosure.of(graphs.dynamic_batch())
    found = closure.close(closure.use("conv.weight"), 0, [1])
    assert found.of_constants == named_unit(closure, {**made("conv", [1]), "w": {1: stretch(16, 16)}})
    assert not blocked(found)


def test_computed_bounds_are_measured() -> None:
    net = Net("computed")
    value = net.op("MatMul", net.input("x", "batch", 3), net.weight("w", 3, 8))
    width = net.op("Shape", value, start=1, end=2)
    half = net.op("Div", width, net.constant("two", np.array([2])))
    bounds = (net.constant("zero", np.array([0])), half, net.constant("axis", np.array([1])))
    first = net.op("Slice", value, *bounds)
    second = net.op("Slice", value, half, width, bounds[2])
    closure = MaskClosure.of(
        net.done((net.op("MatMul", net.op("Mul", first, second), net.weight("out", 4, 5)), (1, 5)))
    )
    assert check_unit(closure, named_unit(closure, {"w": {1: [3, 7]}, "out": {0: [3]}})) is None


def test_packed_tensors_may_be_cut_part_by_part() -> None:
    """Where each part of [3, heads, width] could have a width of its own, queries and keys come apart from values."""
    closure = MaskClosure.of(structures()["packed_qkv"](), unpack=True)
    units: list[Named] = [
        UNITS["packed_qkv"]["head"],
        made("packed", [4, 9, 14, 19], 1),
        {**made("packed", [24, 29], 1), "output.weight": {0: [4, 9]}},
    ]
    assert [check_unit(closure, named_unit(closure, unit)) for unit in units] == [None] * 3


def test_nothing_is_linked_by_an_axis_of_size_one() -> None:
    """A mask that is broadcast over heads doesn't tie them; one that is not does."""
    for heads, tied in ((1, False), (3, True)):
        net = Net("masked")
        x = net.input("x", 1, 4, 6)
        shape = net.constant("shape", np.array([0, 0, 3, 2]))
        value = net.op(
            "Transpose", net.op("Reshape", net.op("MatMul", x, net.weight("w", 6, 6)), shape), perm=[0, 2, 1, 3]
        )
        value = net.op("Add", value, net.weight("mask", 1, heads, 4, 1))
        emit(net.graph, "Identity", [value], outputs=["unread"])
        closure = MaskClosure.of(
            net.done((net.op("ReduceSum", value, net.constant("axis", np.array([1]))), (1, 1, 4, 2)))
        )
        found = closure.close(closure.use("w"), 1, [2, 3])
        assert (closure.use("mask") in found.removed) is tied
        assert not blocked(found)
