"""Criteria as formulas: `prune{criterion="expr:sum(W^2)*V"}`.

    W    [outputs, columns]  weights of a layer that reads the units; reduce them over the outputs
    M    [units, entries]    weights that make the units; reduce them over the entries
    X    [columns]           norms of the inputs, sqrt(sum x^2)
    V    [columns]           variances of the inputs
    H    [columns]           diagonal of the inputs' Gram matrix, sum x^2

with numbers, + - * / ^, and the functions below. A unit's saliency is the sum over its columns; the lowest goes first.
Where several layers read the units, or the formula is about M alone and several weights make them, the saliencies of
each count relative to their mean. Known criteria, written so:

    magnitude     sum(M^2)                 wanda-sp    mean(abs(W))*X
    l1            sum(abs(M))              flap        sum(W^2)*V
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import RefusedError
from secateur.passes.prune.criteria.magnitude import magnitude
from secateur.passes.prune.criteria.saliency import informed, relative
from secateur.passes.prune.problem import Layer, Problem
from secateur.passes.prune.ranking import Ranking

Array: TypeAlias = NDArray[np.float64]
Level: TypeAlias = Literal["number", "units", "columns", "rows", "weights"]

#: Longer formulas are refused.
LONGEST = 500

_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: operator.pow,
    }
)
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = MappingProxyType(
    {ast.USub: operator.neg, ast.UAdd: operator.pos}
)
_EACH: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log}
)
_REDUCTIONS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "norm": np.linalg.norm}
)
_LEVELS: Mapping[str, Level] = MappingProxyType(
    {"W": "weights", "M": "rows", "X": "columns", "V": "columns", "H": "columns"}
)
#: What reductions run over, and what is left.
_REDUCED: Mapping[Level, tuple[int, Level]] = MappingProxyType({"weights": (0, "columns"), "rows": (1, "units")})


@dataclass(frozen=True)
class Expression:
    """A formula that has been read, fit to be called as a criterion."""

    text: str
    tree: ast.expr
    symbols: frozenset[str]

    @property
    def needs_data(self) -> bool:
        """False for formulas about M alone."""
        return self.symbols != {"M"}

    def __call__(self, problem: Problem, removed: int) -> Ranking:
        """The ranking of units, by `magnitude` where the data shows nothing that the formula is about.

        Raises:
            RefusedError: a saliency is not a number, or there is none.
        """
        if not self.needs_data:
            scopes = [_Scope({"M": rows}, np.zeros(0, dtype=np.int64)) for rows in problem.rows]
        else:
            scopes = [_scope(layer, problem, self.symbols) for layer in informed(problem)]
        if not scopes:
            return magnitude(problem, removed)
        return relative((self._saliency(scope, problem.size) for scope in scopes), problem.size)

    def _saliency(self, scope: _Scope, size: int) -> Array:
        with np.errstate(all="ignore"):
            found = scope.units(scope.value(self.tree), size)
        if not np.isfinite(found).all():
            bad = int(np.flatnonzero(~np.isfinite(found))[0])
            raise RefusedError(
                f"the criterion {self.text!r} is {found[bad]} for unit {bad}", hint="divide by nothing that can be zero"
            )
        return found


def expression(text: str) -> Expression:
    """Reads a formula.

    Raises:
        ValueError: it is none, or does not come to one number for each unit.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a formula has at most {LONGEST} characters, got {len(text)}")
    try:
        tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read the formula {text!r}: {error}") from error
    symbols = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name)) & frozenset(_LEVELS)
    found = Expression(text, tree, symbols)
    # Two of everything: whether it comes to one number for each unit does not depend on the numbers.
    ones = {"W": np.ones((2, 2)), "M": np.ones((2, 2))} | {name: np.ones(2) for name in "XVH"}
    scope = _Scope(ones, np.arange(2))
    try:
        with np.errstate(all="ignore"):
            scope.units(scope.value(tree), 2)
    except (ValueError, RecursionError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"cannot use the formula {text!r}: {error}") from error
    return found


@dataclass(frozen=True)
class _Value:
    array: Any
    level: Level


@dataclass(frozen=True)
class _Scope:
    """What the symbols stand for with one layer; `unit` [columns] is the unit of each column, -1 for none."""

    symbols: Mapping[str, Array]
    unit: NDArray[np.int64]

    def value(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as number):
                return _Value(float(number), "number")
            case ast.Name(id=name):
                return self._symbol(name)
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _SIGNS:
                inner = self.value(operand)
                return _Value(_SIGNS[type(sign)](inner.array), inner.level)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                one, other, level = self._alike(self.value(left), self.value(right))
                return _Value(_OPERATORS[type(op)](np.asarray(one), other), level)
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
                return _call(name, self.value(argument))
        raise ValueError(f"{ast.unparse(node)!r} is no number, symbol, operation or function of one thing")

    def _symbol(self, name: str) -> _Value:
        if name == "G":
            raise ValueError("G, the gradient, is not in formulas: criterion=fisher and taylor go by gradients")
        if name not in _LEVELS:
            raise ValueError(f"there is no {name!r}; there are {', '.join(_LEVELS)}")
        return _Value(self.symbols[name], _LEVELS[name])

    def _alike(self, one: _Value, other: _Value) -> tuple[Any, Any, Level]:
        """Both so that they go together entry by entry."""
        levels = {one.level, other.level} - {"number"}
        if len(levels) < 2:
            return one.array, other.array, levels.pop() if levels else "number"
        if levels == {"rows", "units"}:
            raised = [value.array if value.level == "rows" else value.array[:, None] for value in (one, other)]
            return *raised, "rows"
        if "rows" in levels:
            raise ValueError("M has a row for each unit: reduce it, as in sum(M^2), before it goes with W, X, V or H")
        raised = [self._spread(value.array) if value.level == "units" else value.array for value in (one, other)]
        return *raised, "weights" if "weights" in levels else "columns"

    def _spread(self, units: Array) -> Array:
        """[columns] to each column what its unit has."""
        return np.where(self.unit >= 0, units[self.unit], 0.0)

    def units(self, value: _Value, size: int) -> Array:
        """[size] one number for each unit."""
        if value.level == "columns":
            inside = self.unit >= 0
            return np.bincount(self.unit[inside], value.array[inside], size).astype(np.float64)
        if value.level == "units":
            return np.asarray(value.array, dtype=np.float64)
        name = {"weights": "W", "rows": "M"}.get(value.level)
        why = f"{name} is not reduced, as in sum({name}^2)" if name else "it says nothing of units"
        raise ValueError(f"it does not come to one number for each unit: {why}")


def _call(name: str, value: _Value) -> _Value:
    if name in _EACH:
        return _Value(_EACH[name](np.asarray(value.array)), value.level)
    if name not in _REDUCTIONS:
        raise ValueError(f"there is no function {name!r}; there are {', '.join([*_REDUCTIONS, *_EACH])}")
    if value.level not in _REDUCED:
        raise ValueError(f"{name} reduces W over outputs or M over entries, and this holds neither")
    axis, level = _REDUCED[value.level]
    return _Value(_REDUCTIONS[name](value.array, axis=axis), level)


def _scope(layer: Layer, problem: Problem, symbols: frozenset[str]) -> _Scope:
    gram = layer.seen.fit
    energies = gram.diagonal
    found = {"W": layer.matrix, "X": np.sqrt(energies), "V": gram.variance, "H": energies}
    if "M" in symbols:
        found["M"] = np.concatenate(problem.rows, axis=1)
    return _Scope(found, layer.column_unit)
