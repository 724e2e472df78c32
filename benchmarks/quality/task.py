"""What a row of the quality table needs: a model, data to calibrate on, other data, and figures to judge by."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Feeds: TypeAlias = dict[str, Array]
Run: TypeAlias = Callable[[Feeds], dict[str, Array]]

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("SECATEUR_QUALITY", "~/.cache/secateur/quality")).expanduser()


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Attributes:
        name: its heading.
        form: how a figure is printed, as in `format(figure, form)`.
        higher: whether more is better.
    """

    name: str
    form: str = ".3f"
    higher: bool = False


@dataclass(frozen=True)
class Task:
    """A model with its data.

    Attributes:
        title: model and data in words.
        model: the ONNX file, made or fetched if need be.
        calibrate: batches of feeds.
        evaluate: what a model (given as a function that runs it) makes of data that was not calibrated on.
        judge: (what a model makes of it, what the dense one does) to a figure for each metric.
        metrics: in the order of the columns.
        amounts: how much goes: the options of `prune` that say so, by a short name. `units=FFN:0.2+HEADS:0.34` stands
            for a file of group names: the share that goes of the groups that `cell.CHOSEN` has under these names.
        methods: further options of `prune`, those that are run unless others are asked for; behind ` then ` the passes
            that follow it.
        peers: tools that can prune it, by their name in `peers.py`.
    """

    title: str
    model: Callable[[], Path]
    calibrate: Callable[[], list[Feeds]]
    evaluate: Callable[[Run], Array]
    judge: Callable[[Array, Array], dict[str, float]]
    metrics: tuple[Metric, ...]
    amounts: Mapping[str, str]
    methods: tuple[str, ...]
    peers: tuple[str, ...] = ()


def pipeline(amount: str, method: str) -> str:
    """The passes that a row stands for: options that say how much goes, and options that say how."""
    options, _, behind = method.partition("then ")
    return ",".join(filter(None, (f"prune{{{', '.join(filter(None, (amount, options.strip())))}}}", behind)))


def relative_error(found: Array, dense: Array) -> float:
    """Squared error by the variance of the dense output about its mean over samples: 1 - R²."""
    centred = dense - dense.mean(axis=0)
    return float(np.square(found - dense, dtype=np.float64).sum() / np.square(centred, dtype=np.float64).sum())
