"""Does a pass keep the promise that its effect makes? The graphs before and after it are run on the same data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from secateur.ir import DataType, Graph, TensorType
from secateur.ir.errors import BackendError, DataError
from secateur.ir.runner import RunnerFactory
from secateur.passes.base import Pass
from secateur.passes.context import Context
from secateur.passes.facets import Effect

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Outputs: TypeAlias = Mapping[str, Any]
"""Arrays, or lists of them for sequences, or None for optionals that are empty."""

_UNKNOWN_SIZE = 2


def broken_promise(done: Pass, before: Graph, after: Graph, context: Context) -> str | None:
    """Why the outputs of `after` are not what the effect of the pass allows; None where they are, or nobody can say.

    Runs both on the first batch of the calibration data, or on random feeds. Lossy passes promise nothing; a model that
    the runtime cannot run, or that draws random numbers, tells nothing.
    """
    feeds = sample_feeds(before, context)
    if context.runner is None or done.effect is Effect.LOSSY or feeds is None:
        return None
    try:
        expected, again = (_run(context.runner, before, feeds) for _ in range(2))
    except (BackendError, DataError):
        return None
    if any(differences(expected, again, 0)):
        return None
    try:
        found = _run(context.runner, after, feeds)
    except (BackendError, DataError) as error:
        return f"the model no longer runs: {error.message}"
    return next(differences(expected, found, done.tolerance), None)


def differences(expected: Outputs, found: Outputs, tolerance: float) -> Iterator[str]:
    """One line for each output that differs by more than `tolerance` times its largest finite magnitude.

    The tolerance is that of float32; in other types it allows for as many of their own rounding steps. 0 asks for the
    same bits (but for the sign of zero and the payload of NaN). What is no floating point must be equal in any case.
    Sequences are compared item by item.
    """
    for name, wanted in expected.items():
        reason = _difference(wanted, found[name], tolerance)
        if reason is not None:
            yield f"output {name!r} {reason}"


def _difference(wanted: Any, got: Any, tolerance: float) -> str | None:
    if isinstance(wanted, list) and isinstance(got, list):
        reasons = (_difference(one, other, tolerance) for one, other in zip(wanted, got, strict=False))
        first = next((reason for reason in reasons if reason is not None), None)
        return first if len(wanted) == len(got) else f"had {len(wanted)} items, has {len(got)}"
    if not isinstance(wanted, np.ndarray) or not isinstance(got, np.ndarray):
        return None if type(wanted) is type(got) else f"was a {type(wanted).__name__}, is a {type(got).__name__}"
    if (wanted.shape, wanted.dtype) != (got.shape, got.dtype):
        return f"was {wanted.dtype}{list(wanted.shape)}, is {got.dtype}{list(got.shape)}"
    is_float = DataType.of(wanted.dtype).is_float
    if is_float and tolerance:
        error, allowed = relative_error(wanted, got), tolerance * _coarseness(wanted.dtype)
        return (
            None if error <= allowed else f"is off by {error:.3g} of its largest magnitude, allowed are {allowed:.3g}"
        )
    same = wanted == got
    if is_float:
        same |= (wanted != wanted) & (got != got)
    return None if np.all(same) else f"differs at {same.size - np.count_nonzero(same)} of {same.size} places"


def _coarseness(dtype: np.dtype[Any]) -> float:
    """The rounding step of a floating-point type over that of float32."""
    return float(ml_dtypes.finfo(dtype).eps) / float(np.finfo(np.float32).eps)


def relative_error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference over the largest finite magnitude; inf where one is finite and the other is not."""
    wanted, got = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return float("inf")
    scale = float(np.abs(wanted[finite]).max(initial=0.0))
    worst = float(np.abs(wanted[finite] - got[finite]).max(initial=0.0))
    return worst / scale if scale else worst


def sample_feeds(graph: Graph, context: Context) -> Arrays | None:
    """The first batch of the calibration data, or random feeds; None where an input is of a kind that neither gives."""
    if context.source is not None:
        batch = next(iter(context.source), None)
        if batch is not None:
            return batch.feeds
    return random_feeds(graph, context.seed)


def random_feeds(graph: Graph, seed: int = 0) -> Arrays | None:
    """Standard normal numbers for floating-point inputs, 0 and 1 for others; a size that is not known is 2.

    Inputs with a default are left out. None where an input is no tensor of known rank, or holds strings.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for value in graph.inputs:
        if value.const is not None:
            continue
        kind = value.type
        if not isinstance(kind, TensorType) or kind.shape is None or kind.dtype is DataType.STRING:
            return None
        shape = [dim if isinstance(dim, int) else _UNKNOWN_SIZE for dim in kind.shape]
        drawn = random.standard_normal(shape) if kind.dtype.is_float else random.integers(0, 2, shape)
        feeds[value.name] = np.asarray(drawn).astype(kind.dtype.numpy)
    return feeds


def _run(runner: RunnerFactory, graph: Graph, feeds: Arrays) -> Outputs:
    with runner(graph) as ready:
        return ready.run(feeds)
