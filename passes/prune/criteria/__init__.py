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
            "flap": "flap:flap",
            "flap-code": "flap:flap_code",
            "flap-ifv": "flap:flap_ifv",
            "flap-wifn": "flap:flap_wifn",
            "fpgm": "fpgm:fpgm",
            "frequency": "reap:frequency",
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
            "tyr": "tyr:tyr",
            "tyr-code": "tyr:tyr_code",
            "wanda-sp": "wanda_sp:wanda_sp",
        }.items()
    }
)

_WRITTEN: Mapping[str, str] = MappingProxyType({"expr:": "secateur.passes.prune.criteria.expression:expression"})

CRITERIA: Choices[Criterion] = Choices("criterion", _TABLE, _WRITTEN)
"""By name; other packages add theirs under the entry point group `secateur.criterion`. `expr:` goes before formulas."""

DATA_FREE = frozenset({"batchnorm-scale", "fpgm", "l1", "magnitude", "random"})
"""Those that look at weights only."""

OF_EXPERTS = frozenset({"expert-norm", "expert-norm-mean", "frequency", "reap"})
"""Those that judge experts by what becomes of their outputs; other groups they judge by magnitude."""


def is_data_free(name: str) -> bool:
    """True for criteria that look at weights only, formulas among them."""
    if name.startswith("expr:"):
        return not getattr(CRITERIA[name], "needs_data", True)
    return name in DATA_FREE
