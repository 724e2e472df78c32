"""How much rows of a value count, where norms divide them by their size before layers read them.

A few tokens of language models are hundreds of times as large as all others (Sun et al. 2024, "Massive Activations in
Large Language Models", section 2): their squared errors would be nearly all that is fitted. Relative to their size they
would count like any others, but others attend to them more than to each other. What lies between leaves a 2:4 Llama
better than plain squares do on all texts, and better than relative ones on those of other kinds than it is fitted on.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[Any]

LEAST = 0.1
"""Of the median of sizes: rows that are smaller count as rows of this size."""


class RowCounts:
    """What squared errors of rows count, batch after batch: 1 at the usual size of the first, inversely to it else."""

    def __init__(self) -> None:
        self._usual: float | None = None

    def of(self, wanted: Rows, made: Rows) -> NDArray[np.float32]:
        """[..., 1] for rows along the last axis.

        The size of a row is its root mean square, of what is wanted or of what is made now, whichever is larger: where
        only the model that is being compressed makes a token so large, its error is all of its size.
        """
        sizes = np.maximum(_sizes(wanted), _sizes(made))
        median = float(np.median(sizes)) or 1.0
        if self._usual is None:
            self._usual = median
        return (self._usual / np.maximum(sizes, LEAST * median)).astype(np.float32)


def _sizes(rows: Rows) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.sqrt(np.mean(np.square(rows, dtype=np.float32), axis=-1, keepdims=True))
    return found
