"""Patterns and rules: where they match, where they must not, and what the driver does with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from helpers.graphs import Net, function_call, nested_if

from secateur.ir import Graph, Op, Value
from secateur.ir.errors import PassError
from secateur.passes import Context
from secateur.passes.pattern import Match, OpPattern, constant, find_match, maybe, op, value
from secateur.passes.rewriter import Rewriter, Rule, Worklist, apply_rules

_MUL_ADD = op("Add", op("Mul", value("x"), constant("scale")), constant("shift"))


def _found(pattern: OpPattern, graph: Graph) -> list[Match]:
    return [match for one in graph.ops() if (match := find_match(pattern, graph, one))]


def _affine(*, swapped: bool = False) -> Net:
    net = Net("affine")
    x, scale, shift = net.input("x", 4, 3), net.scale("s", 3), net.weight("b", 3)
    made = net.op("Mul", *((scale, x) if swapped else (x, scale)))
    made = net.op("Add", *((shift, made) if swapped else (made, shift)), to="y")
    net.done((made, (4, 3)))
    return net


@pytest.mark.parametrize("swapped", [False, True])
def test_commutative_ops_match_either_way(swapped: bool) -> None:
    graph = _affine(swapped=swapped).graph
    (match,) = _found(_MUL_ADD, graph)
    assert {name: bound.name for name, bound in match.values.items()} == {"x": "x", "scale": "s", "shift": "b"}
    assert match.root is match.ops["add"]
    assert match.tensor("scale") is graph["s"].const
    sub = op("Sub", value("x"), constant("c"))
    net = Net("sub")
    net.done((net.op("Sub", net.weight("c", 3), net.input("x", 3)), (3,)))
    assert not _found(sub, net.graph)


def test_a_wildcard_is_a_value_so_inputs_match() -> None:
    (match,) = _found(op("Mul", value("x"), value("y")), _affine().graph)
    assert match["x"].name == "x"


def test_the_same_name_is_the_same_value() -> None:
    net = Net("twice")
    x, y = net.input("x", 3), net.input("y", 3)
    net.done((net.op("Add", net.op("Mul", x, x), net.op("Mul", x, y)), (3,)))
    assert len(_found(op("Mul", value("a"), value("a")), net.graph)) == 1
    assert len(_found(op("Mul", value("a"), value("b")), net.graph)) == 2


def test_backtracking_over_both_orders() -> None:
    net = Net("backtrack")
    x = net.input("x", 3)
    net.done((net.op("Add", net.op("Exp", x), net.op("Exp", net.op("Neg", x))), (3,)))
    pattern = op("Add", op("Exp", op("Neg", value("b")), name="right"), op("Exp", value("a"), name="left"))
    (match,) = _found(pattern, net.graph)
    assert match.ops["left"].output.name != match.ops["right"].output.name
    assert match["a"] is match["b"] is x


def test_an_inner_value_with_another_user_is_no_match() -> None:
    net = _affine()
    inner = net.graph.ops()[0].output
    net.op("Relu", inner)
    assert not _found(_MUL_ADD, net.graph)
    assert _found(op("Add", op("Mul", value("x"), constant("s"), shared=True), constant("b")), net.graph)


def test_an_inner_value_that_is_an_output_is_no_match() -> None:
    net = _affine()
    net.graph.set_interface(outputs=[*net.graph.outputs, net.graph.ops()[0].output])
    assert not _found(_MUL_ADD, net.graph)


def test_an_inner_value_that_a_body_reads_is_no_match() -> None:
    net = _affine()
    condition, inner = net.input("c", dtype=net.graph["x"].type.dtype), net.graph.ops()[0].output  # type: ignore[union-attr]
    body, other = net.body("then"), net.body("else")
    body.done((body.op("Neg", inner), (4, 3)))
    other.done((other.op("Abs", net.graph["x"]), (4, 3)))
    net.op("If", condition, then_branch=body.graph, else_branch=other.graph)
    assert not _found(_MUL_ADD, net.graph)


def test_overridable_constants_are_no_constants() -> None:
    net = _affine()
    net.graph.set_interface(inputs=[*net.graph.inputs, net.graph["s"]])
    assert not _found(_MUL_ADD, net.graph)


def test_optional_inputs_attributes_and_predicates() -> None:
    net = Net("conv")
    x = net.input("x", 1, 3, 6, 6)
    net.conv(net.conv(x, "plain", 4, 3, 1, 1, bias=False), "strided", 4, 4, 3, 3, strides=[2, 2])
    any_conv = op("Conv", value("x"), constant("w"), maybe(constant("b")))
    assert [match.get("b") is not None for match in _found(any_conv, net.graph)] == [False, True]
    assert not _found(op("Conv", value("x"), constant("w"), constant("b"), value("more")), net.graph)
    assert len(_found(op("Conv", value("x"), constant("w")), net.graph)) == 1
    assert len(_found(op("Conv", value("x"), rest=True), net.graph)) == 2
    strided = op("Conv", value("x"), constant("w"), maybe(value("b")), attributes={"strides": (2, 2)})
    assert [match.root.name for match in _found(strided, net.graph)] == ["/strided"]
    kernel = op("Conv", value("x"), constant("w", lambda tensor: tensor.shape[2:] == (3, 3)), maybe(value("b")))
    assert [match.root.name for match in _found(kernel, net.graph)] == ["/strided"]


def test_other_outputs_and_other_domains() -> None:
    net = Net("topk")
    made = net.op("Relu", net.input("x", 4))
    two = Op("TopK", (made, net.constant("k", np.array([2]))), (Value("values"), Value("indices")))
    net.graph.add_op(two)
    net.done((net.op("Neg", two.outputs[0]), (2,)), (net.op("Abs", two.outputs[1]), (2,)))
    topk = op("TopK", value("x"), value("k"), shared=True)
    assert _found(op("Neg", topk), net.graph) and not _found(op("Abs", topk), net.graph)
    second = op("TopK", value("x"), value("k"), shared=True, output=1)
    assert _found(op("Abs", second), net.graph)
    calls = function_call()
    assert len(_found(op("example.functions::ScaledLeaky", value("x"), value("y")), calls)) == 2
    assert not _found(op("ScaledLeaky", value("x"), value("y")), calls)


def _fused(match: Match, rewriter: Rewriter) -> Value:
    return rewriter.emit("Custom", [match["x"], match["scale"], match["shift"]]).output


def test_a_rewrite_keeps_the_name_and_type_of_an_output() -> None:
    graph = _affine().graph
    outcome = apply_rules(graph, [Rule("fuse", _MUL_ADD, _fused)], Context())
    graph.verify()
    assert outcome.rewrites == outcome.applied["fuse"] == 1
    assert [one.op_type for one in graph.ops()] == ["Custom"]
    assert [(output.name, str(output.type)) for output in graph.outputs] == [("y", "f32[4, 3]")]


def test_a_check_that_says_no_is_reported() -> None:
    graph = _affine().graph
    text = str(graph)
    context = Context()
    outcome = apply_rules(graph, [Rule("fuse", _MUL_ADD, _fused, lambda match: "not today")], context)
    outcome.record(context)
    assert str(graph) == text
    last = graph.ops()[-1].title
    assert context.report.rows == [{"rule": "fuse", "refused": 1, "reason": "not today", "first": last}]


def test_the_first_rule_wins_and_a_match_may_end_in_an_input() -> None:
    graph = _affine().graph
    rules = [
        Rule("drop", op("Mul", value("x"), constant("s")), lambda match, _: match["x"]),
        Rule("never", op("Mul", value("x"), value("y")), lambda match, _: match["y"]),
    ]
    outcome = apply_rules(graph, rules, Context())
    graph.verify()
    assert dict(outcome.applied) == {"drop": 1}
    assert [one.op_type for one in graph.ops()] == ["Add"]
    assert graph.get("s") is None


@pytest.mark.parametrize("made", ["x", "w", "other"])
def test_an_output_that_cannot_take_the_name_stays_behind_an_identity(made: str) -> None:
    net = Net("names")
    x, weight = net.input("x", 3), net.weight("w", 3)
    other = net.op("Exp", x, to="other")
    net.done((net.op("Add", net.op("Neg", x), weight, to="y"), (3,)), (other, (3,)))
    rule = Rule("replace", op("Add", value("a"), value("b")), lambda match, _: net.graph[made])
    apply_rules(net.graph, [rule], Context())
    net.graph.verify()
    assert [output.name for output in net.graph.outputs] == ["y", "other"]
    producer = net.graph.producer(net.graph["y"])
    assert producer is not None and (producer.op_type, producer.inputs[0]) == ("Identity", net.graph[made])


def test_the_driver_follows_what_rewrites_make_possible() -> None:
    net = Net("chain")
    made: Value = net.input("x", 3)
    for _ in range(40):
        made = net.op("Neg", made)
    net.done((net.op("Relu", made, to="y"), (3,)))
    rule = Rule("cancel", op("Neg", op("Neg", value("x"), name="inner")), lambda match, _: match["x"])
    outcome = apply_rules(net.graph, [rule], Context())
    net.graph.verify()
    assert outcome.rewrites == 20
    assert [one.op_type for one in net.graph.ops()] == ["Relu"]


def _turn(name: str, pattern: OpPattern, into: str) -> Rule:
    return Rule(name, pattern, lambda match, rewriter: rewriter.emit(into, [match["x"]]).output)


@pytest.mark.parametrize("steps", [("late", "closed", "below"), ("late", "closed", "made"), ("late", "closed")])
def test_what_was_visited_too_early_is_visited_again(steps: tuple[str, ...]) -> None:
    """`late` takes the second reader of Neg away; only then `closed` fits, which makes `made` or `below` fit."""
    net = Net("early")
    x = net.input("x", 3)
    inner = net.op("Neg", x)
    upper = net.op("Abs", net.op("Floor", net.op("Exp", inner)), to="y")
    lower = net.op("Ceil", net.op("Relu", inner), to="z")
    net.done((upper, (3,)), (lower, (3,)))

    def closed(match: Match, rewriter: Rewriter) -> Value:
        return rewriter.emit("Cosh", [rewriter.constant("c", np.zeros(3, np.float32))]).output

    rules = {
        "closed": Rule("closed", op("Exp", op("Neg", value("x"))), closed),
        "made": _turn("made", op("Cosh", value("x")), "Sinh"),
        "below": _turn("below", op("Abs", op("Floor", op("Cosh", value("x")))), "Tan"),
        "late": Rule("late", op("Ceil", op("Relu", value("ignored"))), lambda match, _: x),
    }
    outcome = apply_rules(net.graph, [rules[step] for step in steps], Context())
    net.graph.verify()
    assert dict(outcome.applied) == dict.fromkeys(steps, 1)


def test_bodies_and_functions_are_rewritten_too() -> None:
    graph = nested_if()
    rule = Rule("negate", op("Neg", value("x")), lambda match, rewriter: rewriter.emit("Abs", [match["x"]]).output)
    assert apply_rules(graph, [rule], Context()).rewrites == 1
    graph.verify()
    assert "Abs" in str(graph) and "Neg" not in str(graph)
    calls = function_call()
    rule = Rule("add", op("Mul", value("x"), value("y")), lambda match, rewriter: _sum(match, rewriter))
    assert apply_rules(calls, [rule], Context()).rewrites == 1
    calls.verify()


def _sum(match: Match, rewriter: Rewriter) -> Value:
    return rewriter.emit("Add", [match["x"], match["y"]]).output


def test_rules_that_undo_each_other_are_named() -> None:
    def swap(to: str) -> Rule:
        other = {"Neg": "Abs", "Abs": "Neg"}[to]
        return Rule(f"to-{to}", op(other, value("x")), lambda match, rewriter: rewriter.emit(to, [match["x"]]).output)

    net = Net("endless")
    net.done((net.op("Neg", net.input("x", 3)), (3,)))
    with pytest.raises(PassError, match=r"never come to an end.*(to-Abs, to-Neg|to-Neg, to-Abs)"):
        apply_rules(net.graph, [swap("Abs"), swap("Neg")], Context())


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_fuel_limits_the_rewrites(limit: int) -> None:
    net = Net("fuel")
    x = net.input("x", 3)
    net.done(*((net.op("Neg", x), (3,)) for _ in range(4)))
    asked: list[str] = []

    def fuel(rule: str, one: Op) -> bool:
        asked.append(one.name)
        return len(asked) <= limit

    rule = Rule("negate", op("Neg", value("x")), lambda match, rewriter: rewriter.emit("Abs", [match["x"]]).output)
    assert apply_rules(net.graph, [rule], Context(fuel=fuel)).rewrites == min(limit, 4)
    assert len(asked) == len(set(asked)) == 4
    net.graph.verify()


def _order(seed: Sequence[int]) -> list[str]:
    ops = [Op(str(index), (), ()) for index in range(5)]
    work = Worklist(ops)
    for index in seed:
        work.push(ops[index])
    work.discard(ops[0])
    return [one.op_type for one in work]


def test_the_worklist_is_last_in_first_out_without_duplicates() -> None:
    assert _order([]) == ["4", "3", "2", "1"]
    assert _order([1, 3, 1]) == ["1", "3", "4", "2"]
