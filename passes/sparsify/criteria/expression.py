"""Criteria as formulas or trees: `sparsify{criterion="expr:abs(W)*X"}`, or the JSON that Pruner-Zero's search writes.

    W    [outputs, columns]  weights
    G    [outputs, columns]  root mean squares of the scores at them; needs what differentiates the model
    X    [columns]           norms of the inputs, sqrt(sum x^2)
    H    [columns]           sum x^2
    V    [columns]           variances of the inputs

with numbers, + - * / ^ and the operators of Pruner-Zero by name: abs, sqr, pow2, neg, log, exp, sqrt, tanh, skp (does
nothing), mms (to 0 .. 1 over the whole matrix), zsn (to mean 0 and variance 1), add, sub, mul, div. In a tree,
{"data": "mul", "left": ..., "right": ...}, X stands for sum x^2, as it does there. A path of a file that ends in .json
is read. The weights of least saliency go first. Known criteria, written so:

    wanda         abs(W)*X                pruner-zero   abs(W*W)*mms(G)
    fisher        W^2*G^2                 magnitude     abs(W)
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import RefusedError
from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.sparsify.criteria.gradients import seen
from secateur.passes.sparsify.patterns import Pattern

Numbers: TypeAlias = NDArray[np.float64]

LONGEST = 2000
"""Longer texts are refused."""


def _scaled(x: Numbers) -> Numbers:
    low, high = x.min(), x.max()
    # Where all are equal there is nothing to tell them apart by: the other factor decides.
    return (x - low) / (high - low) if high > low else np.ones_like(x)


def _standard(x: Numbers) -> Numbers:
    spread = x.std()
    return (x - x.mean()) / spread if spread > 0 else np.zeros_like(x)


_ONE: Mapping[str, Callable[[Numbers], Numbers]] = MappingProxyType(
    {
        "abs": np.abs,
        "exp": lambda x: np.exp(np.minimum(x, 100.0)),
        "log": lambda x: np.log(np.abs(x) + 1e-3),
        "mms": _scaled,
        "neg": np.negative,
        "pow": np.square,
        "pow2": np.square,
        "skp": lambda x: x,
        "sqr": np.square,
        "sqrt": lambda x: np.sqrt(np.abs(x)),
        "tanh": np.tanh,
        "zsn": _standard,
    }
)
_TWO: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = MappingProxyType(
    {
        "add": np.add,
        "div": np.divide,
        "mul": np.multiply,
        "raise": np.power,
        "sub": np.subtract,
    }
)
_SIGNS: Mapping[type[ast.operator], str] = MappingProxyType(
    {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "raise"}
)
_SYMBOLS = ("W", "G", "X", "H", "V")


@dataclass(frozen=True)
class Node:
    """A symbol, a number, or an operator of one or two nodes."""

    word: str
    parts: tuple[Node, ...] = ()

    def value(self, symbols: Mapping[str, Numbers]) -> Numbers:
        """What it comes to."""
        inner = [part.value(symbols) for part in self.parts]
        if len(inner) == 1:
            return _ONE[self.word](inner[0])
        if len(inner) == 2:
            return _TWO[self.word](inner[0], inner[1])
        found = symbols.get(self.word)
        return np.asarray(float(self.word)) if found is None else found

    def symbols(self) -> set[str]:
        """Those that occur."""
        below = {symbol for part in self.parts for symbol in part.symbols()}
        return below | {self.word} if self.word in _SYMBOLS and not self.parts else below


@dataclass(frozen=True)
class Expression:
    """A formula or tree that has been read, fit to be called as a criterion."""

    text: str
    tree: Node

    @property
    def needs_data(self) -> bool:
        """False for formulas about W alone."""
        return self.tree.symbols() != {"W"}

    @property
    def needs_gradients(self) -> bool:
        """True for formulas about G."""
        return "G" in self.tree.symbols()

    def saliency(self, problem: Problem) -> Array:
        """[outputs, columns] what it comes to; w^2 where it is the same for all weights.

        Raises:
            RefusedError: it is not a number somewhere.
        """
        shape, named = problem.weight.shape, self.tree.symbols()
        symbols: dict[str, Numbers] = {"W": problem.weight}
        if "G" in named:
            symbols["G"] = np.sqrt(seen(problem).square)
        if named & set("XHV"):
            symbols |= {"X": np.sqrt(problem.energies), "H": problem.energies, "V": problem.variance}
        spread = {name: np.broadcast_to(array, shape) for name, array in symbols.items()}
        with np.errstate(all="ignore"):
            found = np.broadcast_to(self.tree.value(spread), shape)
        if not np.isfinite(found).all():
            raise RefusedError(
                f"the criterion {self.text!r} is not a number for a weight of {problem.name}",
                hint="divide by nothing that can be zero",
            )
        return np.square(problem.weight) if found.min() == found.max() else np.array(found)

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """The mask."""
        return pattern.mask(self.saliency(problem))


def expression(text: str) -> Expression:
    """Reads a formula, a tree, or the file of one.

    Raises:
        ValueError: it is none, or says nothing of weights.
    """
    source = text.strip()
    if source.endswith(".json"):
        try:
            source = Path(source).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read the tree {text!r}: {error}") from error
    if len(source) > LONGEST:
        raise ValueError(f"a formula has at most {LONGEST} characters, got {len(source)}")
    try:
        if source.startswith("{"):
            tree = _from_json(json.loads(source))
        else:
            tree = _from_formula(ast.parse(source.replace("^", "**"), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ValueError(f"cannot use the formula {text!r}: {error}") from error
    if not tree.symbols():
        raise ValueError(f"cannot use the formula {text!r}: it holds none of {', '.join(_SYMBOLS)}")
    return Expression(text, tree)


def _from_json(node: Any) -> Node:
    if not isinstance(node, dict) or not isinstance(node.get("data"), str):
        raise ValueError(f'a node is {{"data": a name, "left": a node, "right": a node}}, got {str(node)[:40]!r}')
    parts = tuple(_from_json(node[side]) for side in ("left", "right") if node.get(side) is not None)
    return _node("H" if node["data"] == "X" else node["data"], parts)


def _from_formula(node: ast.expr) -> Node:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Node(repr(float(number)))
        case ast.Name(id=name):
            return _node(name, ())
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return Node("neg", (_from_formula(operand),))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            return Node(_SIGNS[type(op)], (_from_formula(left), _from_formula(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _node(name, tuple(map(_from_formula, arguments)))
    raise ValueError(f"{ast.unparse(node)!r} is no number, symbol or operation")


def _node(word: str, parts: tuple[Node, ...]) -> Node:
    known: Mapping[str, Any] | tuple[str, ...] = (_SYMBOLS, _ONE, _TWO)[len(parts)] if len(parts) < 3 else ()
    if word not in known:
        arity = ("symbol", "function of one thing", "function of two things")[min(len(parts), 2)]
        raise ValueError(f"there is no {arity} {word!r}; there are {', '.join(known)}")
    return Node(word, parts)


pruner_zero = expression("abs(W*W)*mms(G)")
"""Dong et al. 2024, "Pruner-Zero: Evolving Symbolic Pruning Metric from scratch for Large Language Models", ICML.

Their gradients are of labelled text; these are of the model's own answers."""
