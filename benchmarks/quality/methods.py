"""How to prune, as options of `prune`: the rows of the table, and which of them this checkout knows."""

from __future__ import annotations

import re

from quality.task import pipeline
from secateur.ir.errors import SecateurError
from secateur.passes.pipeline import parse_pipeline

DEFAULT = ""
REFITTED = (
    "criterion=magnitude, repair=least-squares",
    "criterion=l1, repair=least-squares",
    "criterion=fpgm, repair=least-squares",
    "criterion=second-moment, repair=least-squares",
    "criterion=flap, repair=least-squares",
    "criterion=wanda-sp, repair=least-squares",
    "criterion=similarity, repair=least-squares",
    "criterion=tyr, repair=least-squares",
    "criterion=slimgpt, repair=least-squares",
    "criterion=lasso, repair=least-squares",
    "criterion=obs, repair=least-squares",
)
"""What chooses, all repaired alike."""
PUBLISHED = (
    "criterion=magnitude, repair=none",
    "criterion=lasso, repair=none",
    "criterion=wanda-sp, repair=none",
    "criterion=flap, repair=bias",
    "criterion=slimgpt, repair=obs",
    "criterion=similarity, repair=fold",
    "criterion=similarity, repair=merge",
    "criterion=similarity, repair=neuron-merging",
)
"""Choice and repair as those who proposed them have them, about."""
REPAIRED = (
    "criterion=obs, repair=none",
    "criterion=obs, repair=bias",
    "criterion=obs, repair=obs",
    "criterion=obs, repair=relu-aware",
)
"""One choice, repaired in every way."""
SPREAD = (
    "allocation=incremental",
    "allocation=global",
    "allocation=sensitivity",
    "criterion=obs, repair=least-squares, allocation=global",
    "criterion=obs, repair=least-squares, allocation=global, weighting=fisher",
)
"""How the share is spread over groups."""
VARIED = ("augment=4", "weighting=fisher", "augment=4, weighting=fisher")
"""What it is fitted on, and by what errors count."""
ALL = (DEFAULT, *PUBLISHED, *REFITTED, *REPAIRED, *SPREAD, *VARIED)
FEW = (
    DEFAULT,
    "criterion=magnitude, repair=none",
    "criterion=magnitude, repair=least-squares",
    "criterion=wanda-sp, repair=none",
    "criterion=flap, repair=bias",
    "criterion=flap, repair=least-squares",
    "criterion=obs, repair=least-squares",
    "criterion=slimgpt, repair=obs",
    "allocation=global",
    "allocation=sensitivity",
    "criterion=obs, repair=least-squares, allocation=global",
    "augment=4, weighting=fisher",
)
"""For models whose rows take minutes."""


def missing(amount: str, method: str) -> str | None:
    """Why this checkout does not know a row's options; None where it does. `units=` may say what `cell` spells out."""
    if "units=" in amount and "allocation" in method:
        return "sizes that are given by name leave nothing to allocate"
    try:
        parse_pipeline(pipeline(re.sub(r"units=[A-Z]\S+", "", amount), method))
    except SecateurError as error:
        return str(error).splitlines()[0]
    return None
