"""The criterion axis: in which order do units go? One small file for each answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from secateur.passes.prune.choices import Choices
from secateur.passes.prune.problem import Problem
from secateur.passes.prune.ranking import Ranking

Criterion: TypeAlias = Callable[[Problem, int], Ranking]
"""(problem, how many go) to a ranking of at least that many units."""

_TABLE: Mapping[str, str] = MappingProxyType(
    {
        "lasso": "secateur.passes.prune.criteria.lasso:lasso",
        "magnitude": "secateur.passes.prune.criteria.magnitude:magnitude",
        "random": "secateur.passes.prune.criteria.random:random",
    }
)

CRITERIA: Choices[Criterion] = Choices("criterion", _TABLE)
"""By name; other packages add theirs under the entry point group `secateur.criteria`."""

DATA_FREE = frozenset({"magnitude", "random"})
"""Those that look at weights only."""
