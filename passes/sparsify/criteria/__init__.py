"""The criterion axis: which weights stay? One small file for each answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeAlias

from secateur.passes.layers.problem import Array, Mask, Problem
from secateur.passes.prune.choices import Choices
from secateur.passes.sparsify.patterns import Pattern

Saliency: TypeAlias = Callable[[Problem], Array]
"""What each weight [outputs, columns] is worth; the least goes first."""


class Criterion(Protocol):
    """Chooses by a saliency, or in a way of its own."""

    @property
    def needs_data(self) -> bool:
        """False where weights are all that it looks at."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """True where it asks for `Problem.gradients`."""
        ...

    def saliency(self, problem: Problem) -> Array:
        """[outputs, columns] what each weight is worth, for allocations that compare layers."""
        ...

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """[outputs, columns] True for what stays; it satisfies the pattern."""
        ...


@dataclass(frozen=True)
class Ranked:
    """The weights of most saliency stay, as many as the pattern lets."""

    saliency: Saliency
    needs_data: bool = True
    needs_gradients: bool = False

    def __call__(self, problem: Problem, pattern: Pattern) -> Mask:
        """The mask."""
        return pattern.mask(self.saliency(problem))


_TABLE: Mapping[str, str] = MappingProxyType(
    {
        name: f"secateur.passes.sparsify.criteria.{place}"
        for name, place in {
            "admm": "admm:admm",
            "d-pruner": "d_pruner:d_pruner",
            "fisher": "gradients:fisher",
            "magnitude": "magnitude:magnitude",
            "pruner-zero": "expression:pruner_zero",
            "random": "random:random",
            "ri": "ria:ri",
            "ria": "ria:ria",
            "sketch": "sketch:sketch",
            "sparsegpt": "sparsegpt:sparsegpt",
            "taylor": "gradients:taylor",
            "wanda": "wanda:wanda",
            "wanda-variant": "wanda:wanda_variant",
        }.items()
    }
)

_WRITTEN: Mapping[str, str] = MappingProxyType(
    {
        "d-pruner:": "secateur.passes.sparsify.criteria.d_pruner:weighed",
        "expr:": "secateur.passes.sparsify.criteria.expression:expression",
        "ria:": "secateur.passes.sparsify.criteria.ria:powered",
    }
)

CRITERIA: Choices[Criterion] = Choices("sparsify_criterion", _TABLE, _WRITTEN)
"""By name; other packages add theirs under the entry point group `secateur.sparsify_criterion`.

`expr:` goes before a formula or a tree, `ria:` before the power of the inputs' norms, `d-pruner:` before lambda."""
