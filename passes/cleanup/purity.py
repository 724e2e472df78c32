"""Which ops give the same outputs whenever they are given the same inputs, so that one run can stand for several."""

from __future__ import annotations

from secateur.ir import Graph, Op

_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml"})


def is_repeatable(op: Op, graph: Graph) -> bool:
    """True where running `op`, an op of `graph`, twice or beforehand makes no difference.

    Ops that draw random numbers, and ops of domains that are not ONNX's own (a plugin may do anything), are not. Nor is
    an op with bodies, which is more than its inputs and attributes show.
    """
    domain, op_type = op.key
    if domain not in _KNOWN_DOMAINS or op_type in _RANDOM or op.bodies():
        return False
    if any(attribute.reference for attribute in op.attributes.values()):
        return False
    return op_type != "Dropout" or is_inference_dropout(op, graph)


def is_inference_dropout(op: Op, graph: Graph) -> bool:
    """True for a Dropout that certainly passes its input on.

    Before opset 7 the attribute `is_test` says so; from 12 on a third input may switch training on.
    """
    opset = graph.root.header.opset() or 0
    if opset < 7:
        return bool(op.attribute("is_test", 0))
    if op.input(2) is None:
        return True
    training = graph.constant(op.input(2))
    return training is not None and not training.numpy().any()
