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
        name: f"secateur.passes.prune.criteria.{place}"
        for name, place in {
            "activation": "activation:activation",
            "batchnorm-scale": "batchnorm_scale:batchnorm_scale",
            "expert-norm": "reap:expert_norm",
            "expert-norm-mean": "reap:expert_norm_mean",
            "fisher": "fisher:fisher",
            "fisher-block": "fisher_block:fisher_block",
            "flap": "flap:flap",
            "flap-code": "flap:flap_code",
            "flap-ifv": "flap:flap_ifv",
            "flap-wifn": "flap:flap_wifn",
            "fpgm": "fpgm:fpgm",
            "frequency": "reap:frequency",
            "knowledge": "knowledge:knowledge",
            "l1": "l1:l1",
            "lasso": "lasso:lasso",
            "magnitude": "magnitude:magnitude",
            "obs": "obs:obs",
            "random": "random:random",
            "reap": "reap:reap",
            "second-moment": "output_approximation:second_moment",
            "similarity": "output_approximation:similarity",
            "similarity-recovered": "output_approximation:similarity_recovered",
            "slimgpt": "slimgpt:slimgpt",
            "slimgpt-code": "slimgpt:slimgpt_code",
            "taylor": "fisher:taylor",
            "tyr": "tyr:tyr",
            "tyr-code": "tyr:tyr_code",
            "wanda-sp": "wanda_sp:wanda_sp",
        }.items()
    }
)

_WRITTEN: Mapping[str, str] = MappingProxyType(
    {
        "expr:": "secateur.passes.prune.criteria.expression:expression",
        "knowledge:": "secateur.passes.prune.criteria.knowledge:weighed",
    }
)

CRITERIA: Choices[Criterion] = Choices("criterion", _TABLE, _WRITTEN)
"""By name; other packages add theirs under the entry point group `secateur.criterion`. `expr:` goes before formulas.

`knowledge:` goes before the weight of a loss of representation."""

DATA_FREE = frozenset({"batchnorm-scale", "fpgm", "l1", "magnitude", "random"})
"""Those that look at weights only."""

OF_EXPERTS = frozenset({"expert-norm", "expert-norm-mean", "frequency", "reap"})
"""Those that judge experts by what becomes of their outputs; other groups they judge by magnitude."""

FROM_GATES = frozenset({"fisher", "fisher-block", "knowledge", "taylor"})
"""Those that ask how the model's answers depend on gates at the units: they need what differentiates it."""


def is_from_gates(name: str) -> bool:
    """True for criteria that ask for `Problem.gates`, those with a weight behind a colon among them."""
    return name.partition(":")[0] in FROM_GATES


def is_data_free(name: str) -> bool:
    """True for criteria that look at weights only, formulas among them."""
    if name.startswith("expr:"):
        return not getattr(CRITERIA[name], "needs_data", True)
    return name in DATA_FREE
