"""Every operator with a rule: on a graph around it, removing units computes what masking them computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from helpers.mask_oracle import analyse, choices, difference, free, masked, pruned, run
from helpers.operator_cases import CASES
from helpers.operator_net import Case, Net

from secateur.ir import Op
from secateur.ir.dims.algebra import leaves
from secateur.ir.dims.axes import Use, dims_rules
from secateur.ir.dims.boundaries import BOUNDARIES
from secateur.ir.dims.groups import groups
from secateur.ir.dims.resize import resize_rules

ROOT = Path(__file__).resolve().parents[2]
RUNNABLE = [case for case in CASES if case.runs]


def _title(case: Case) -> str:
    return case.title


def _name(op: Op) -> str:
    return f"{op.domain}::{op.op_type}" if op.domain else op.op_type


def _sizes(case: Case, *, exact: bool = True) -> list[int]:
    return [group.size for group in free(analyse(case.make().graph), exact=exact)]


# ---- each graph ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=_title)
def test_the_groups_of_an_operator_are_found(case: Case) -> None:
    graph = case.make().graph
    graph.verify()
    found = analyse(graph)
    assert sorted(group.size for group in free(found)) == list(case.exact)
    assert sorted(group.size for group in free(found, exact=False)) == list(case.inexact)
    ops = [op for op in graph.ops() if _name(op) == case.op]
    assert ops, "the operator is not in its graph"
    assert not any(op in found.boundaries for op in ops)


def _passes(case: Case) -> bool:
    """True where a free group lies in what the operator reads or makes."""
    graph = case.make().graph
    found = analyse(graph)
    ops = [op for op in graph.ops() if _name(op) == case.op]
    places = [[*(Use(op, port) for port in range(len(op.inputs))), *op.inputs, *op.outputs] for op in ops]
    layouts = [layout for some in places for place in some if place in found.layouts for layout in found.of(place)]
    dims = {leaf for layout in layouts for leaf in leaves(layout)}
    return any(group.dim in dims for group in groups(found) if group.pin is None)


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.exact], ids=_title)
def test_removing_units_equals_masking_them(case: Case) -> None:
    net = case.make()
    for kept in choices(_sizes(case)):
        wanted = run(masked(net.graph, kept), net.feeds, case.runs)
        found = run(pruned(net.graph, kept), net.feeds, case.runs)
        assert difference(wanted, found) < 1e-4, kept


@pytest.mark.parametrize("case", [case for case in RUNNABLE if case.inexact], ids=_title)
def test_what_is_inexact_can_be_removed(case: Case) -> None:
    net = case.make()
    before = run(net.graph, net.feeds, case.runs)
    for kept in choices(_sizes(case, exact=False)):
        after = run(pruned(net.graph, kept, exact=False), net.feeds, case.runs)
        for name, array in before.items():
            assert after[name].shape == array.shape
            assert np.isfinite(after[name].astype(np.float64)).all()


@pytest.mark.parametrize("case", [case for case in CASES if not case.runs], ids=_title)
def test_what_cannot_be_run_fits_together(case: Case) -> None:
    for exact in (True, False):
        for kept in choices(_sizes(case, exact=exact)):
            pruned(case.make().graph, kept, exact=exact)


# ---- all operators -------------------------------------------------------------------------------------------------

PINS_ALL = {
    "AffineGrid": "makes coordinates",
    "MaxUnpool": "takes positions that count channels",
    "NonZero": "gives positions",
    "Range": "counts",
    "com.microsoft::Range": "counts",
    "Size": "counts",
}
"""Operators whose rule lets nothing through that a weight could have."""


def test_through_every_operator_with_a_rule_a_free_group_passes_in_some_graph() -> None:
    assert {case.op for case in CASES} == set(dims_rules)
    assert set(dims_rules) - {case.op for case in CASES if _passes(case)} == set(PINS_ALL)


def test_every_resize_rule_belongs_to_a_rule() -> None:
    assert set(resize_rules) <= set(dims_rules)


def test_every_standard_operator_has_a_rule_or_is_a_boundary_with_a_reason() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    gone = {
        schema.name
        for schema in onnx.defs.get_all_schemas_with_history()
        if not schema.domain and schema.deprecated and schema.since_version <= 7
    }
    assert known - gone - set(dims_rules) == {name for name in BOUNDARIES if "::" not in name}
    assert not set(dims_rules) & set(BOUNDARIES)


def test_the_contributed_operators_are_spelled_as_onnxruntime_spells_them() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    known = {schema.name for schema in state.get_all_operator_schema() if schema.domain == "com.microsoft"}
    named = {name.rpartition("::")[2] for name in (*dims_rules, *BOUNDARIES) if name.startswith("com.microsoft::")}
    assert named <= known


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_on_operators_is_up_to_date() -> None:
    generator = _generator()
    assert generator.PATH.read_text(encoding="utf-8") == generator.text(), "run `python docs/generate.py`"


# ---- what inexact means, and what is pinned ------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["com.microsoft::MoE", "com.microsoft::QMoE", "TopK"])
def test_experts_that_are_never_chosen_can_go(op: str) -> None:
    """Experts whose router bias is so low that no token takes them: without them, nothing changes."""
    for case in (case for case in RUNNABLE if case.op == op and 8 in case.inexact):
        net = case.make()
        kept = {0: np.array([0, 2, 3, 5, 6])}
        found = analyse(net.graph)
        (experts,) = free(found, exact=False)
        biases = [
            one.weight for one in experts.weights if one.weight.const is not None and one.weight.const.shape == (8,)
        ]
        assert len(biases) == 1, "the router's bias"
        low = biases[0].const
        assert low is not None
        array = low.numpy().copy()
        array[[1, 4, 7]] = -1e4
        biases[0].set_const(type(low)(array))
        wanted, short = run(net.graph, net.feeds), run(pruned(net.graph, kept, exact=False), net.feeds)
        assert difference(wanted, short) < 1e-4


def test_too_few_experts_are_refused() -> None:
    from secateur.ir.errors import RefusedError

    case = next(case for case in CASES if case.op == "com.microsoft::MoE")
    with pytest.raises(RefusedError, match="takes 2 experts of what would be 1"):
        pruned(case.make().graph, {0: np.array([3])}, exact=False)


def test_the_scale_of_attention_stays_that_of_the_first_width() -> None:
    case = next(case for case in CASES if case.op == "Attention")
    net = case.make()
    widths = [number for number, group in enumerate(free(analyse(net.graph))) if group.size == 7]
    graph = pruned(net.graph, {widths[0]: np.arange(3)})
    (op,) = [op for op in graph.ops() if op.op_type == "Attention"]
    assert op.attribute("scale") == pytest.approx(1 / np.sqrt(7))
    assert op.attribute("q_num_heads") == 2


def test_a_size_that_a_computation_divides_by_is_pinned_with_the_reason() -> None:
    case = next(case for case in CASES if case.name == "reckoned with")
    (pin,) = {group.pin for group in groups(analyse(case.make().graph)) if group.size == 7}
    assert pin is not None
    assert "gives its size to Sqrt" in pin


@pytest.mark.parametrize("name", sorted({"NonMaxSuppression", "Unique", "com.microsoft::Unique"}))
def test_a_boundary_pins_what_it_touches_and_says_why(name: str) -> None:
    net = Net(21)
    value = net.dense(net.input(2, 5), 5, 7)
    if name == "NonMaxSuppression":
        boxes = net.op("Reshape", net.dense(value, 7, 12), net.const([1, 6, 4]))
        net.done(net.op(name, boxes, net.op("Reshape", net.dense(value, 7, 3), net.const([1, 1, 6]))))
    else:
        net.done(net.op(name, net.op("Flatten", value)))
    found = analyse(net.graph)
    (reason,) = found.boundaries.values()
    assert BOUNDARIES[name] in reason
    assert any(group.pin == reason for group in groups(found))
