"""How long two graphs take on onnxruntime, measured so that the comparison is fair."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.runner import Feeds


@dataclass(frozen=True)
class Latency:
    """Seconds for one run of each graph: median, and the quartiles around it.

    `batch` is the size of axis 0 of what was fed; 0 where there is none.
    """

    median_a: float
    median_b: float
    quartiles_a: tuple[float, float]
    quartiles_b: tuple[float, float]
    repeats: int
    threads: int
    batch: int

    @property
    def speedup(self) -> float:
        """How many times faster b is than a."""
        return self.median_a / self.median_b


def latency(
    graph_a: Graph, graph_b: Graph, feeds: Feeds, repeats: int = 20, *, threads: int = 1, warmup: int = 3
) -> Latency:
    """Times both graphs on the same feeds, taking turns (a b, b a, …) so that what else the machine does hits both.

    Args:
        graph_a: the reference.
        graph_b: the other.
        feeds: one batch for the inputs of both.
        repeats: how many runs of each are timed.
        threads: for both; what the runner pins.
        warmup: runs of each before the first that is timed.

    Raises:
        BackendError: onnxruntime is missing, or refuses a graph.
        DataError: the feeds do not fit.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds = np.empty((2, repeats))
    with OnnxRuntimeRunner(graph_a, threads=threads) as a, OnnxRuntimeRunner(graph_b, threads=threads) as b:
        for _ in range(warmup):
            a.run(feeds)
            b.run(feeds)
        for turn in range(repeats):
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                runner = (a, b)[which]
                start = time.perf_counter()
                runner.run(feeds)
                seconds[which, turn] = time.perf_counter() - start
    low_a, median_a, high_a = (float(value) for value in np.quantile(seconds[0], (0.25, 0.5, 0.75)))
    low_b, median_b, high_b = (float(value) for value in np.quantile(seconds[1], (0.25, 0.5, 0.75)))
    batch = next((array.shape[0] for array in feeds.values() if array.ndim), 0)
    return Latency(median_a, median_b, (low_a, high_a), (low_b, high_b), repeats, threads, batch)


def stopwatch(graph: Graph, feeds: Feeds, *, threads: int = 1, seconds: float = 0.05, repeats: int = 5) -> float:
    """Seconds that a graph takes on onnxruntime: its shortest run, which what else the machine does touches least.

    Args:
        graph: a whole model.
        feeds: for its inputs.
        threads: what the runner pins.
        seconds: it is run again for so long,
        repeats: and so often at the least, after as many runs as half of these to warm up.

    Raises:
        BackendError: onnxruntime is missing, or refuses the graph.
        DataError: the feeds do not fit.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    took: list[float] = []
    with OnnxRuntimeRunner(graph, threads=threads) as runner:
        for _ in range((repeats + 1) // 2):
            runner.run(feeds)
        while len(took) < repeats or sum(took) < seconds:
            start = time.perf_counter()
            runner.run(feeds)
            took.append(time.perf_counter() - start)
    return min(took)
