"""Whole plans tried by Bayesian optimisation: layers together need not be what they are one by one.

Stage 3 of QPruner (Zhou et al. 2024). The search is over how much the loss of each layer counts; the allocation makes
a plan of that, so that each one that is tried keeps within the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from secateur.ir.errors import BackendError
from secateur.passes.mix.plan import Choice

MOST = 16.0
"""Losses of a layer count so many times more, or less, at the most."""


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        layers: how many have a choice.
        plan: factors of their losses to a choice within the budget.
        score: of a choice; higher is better.
        trials: plans to try, the first among them, repeated ones not counted.
        seed: of the sampler.
    """

    layers: int
    plan: Callable[[list[float]], Choice]
    score: Callable[[Choice], float]
    trials: int
    seed: int


def refined(search: Search) -> tuple[Choice, dict[Choice, float]]:
    """The best choice, and the scores of all that were tried; of equals the first, and the start is the first.

    Raises:
        BackendError: optuna is not installed.
    """
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=max(4, search.trials // 4))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    names = [f"layer {index}" for index in range(search.layers)]
    study.enqueue_trial(dict.fromkeys(names, 0.0))
    scores: dict[Choice, float] = {}
    # Factors that lead to a plan that was tried cost nothing, and tell the sampler as much.
    for _ in range(8 * search.trials):
        if len(scores) >= search.trials:
            break
        trial = study.ask()
        factors = [math.exp(trial.suggest_float(name, -math.log(MOST), math.log(MOST))) for name in names]
        choice = search.plan(factors)
        if choice not in scores:
            scores[choice] = search.score(choice)
        study.tell(trial, scores[choice] if math.isfinite(scores[choice]) else -1e30)
    return max(scores, key=scores.__getitem__), scores


def _optuna() -> Any:
    try:
        optuna = import_module("optuna")
    except ImportError as error:
        raise BackendError(
            "trials search plans by optuna, which is not installed", hint="pip install 'secateur[mix]', or trials=0"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
