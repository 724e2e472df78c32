"""One cell of the table of sparsity: run a pipeline and score what it leaves, or score what a peer left."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import secateur as sc
from quality import cell, sparse
from secateur.inspection import macs_of
from secateur.ir import Graph
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_use
from secateur.ir.sparsity import has_pattern
from secateur.passes.cleanup.shapes import known

SPARSE = 0.2
"""A weight with at least this share of zeros counts as sparse."""


def measure(name: str, pattern: str, method: str, reference: str = "") -> dict[str, Any]:
    """Figures of one cell: of a row by its name, of a published class, or of the file that a peer made."""
    task = sparse.TASKS[name]
    dense = sc.load(task.model())
    expected = cell.dense_outputs(name, task, dense)
    if method == sparse.DENSE:
        return {"scores": task.judge(expected, expected)}
    if method in sparse.REFERENCES:
        from quality import reference as published

        return published.measure(name, sparse.PATTERNS[pattern], method, Path(reference), expected)
    if method.endswith(".onnx"):
        graph, taken = sc.load(method), {}
    else:
        graph, taken = compressed(dense, task.calibrate, sparse.METHODS[method].pipeline(pattern))
    found = cell.outputs(graph, task)
    return {"scores": task.judge(found, expected), "macs": macs_of(graph) / macs_of(dense), **zeros(graph), **taken}


def compressed(dense: Graph, calibrate: Callable[[], list[Any]], passes: str) -> tuple[Graph, dict[str, Any]]:
    """The model after its passes, and what these took; the peak is that of the whole process until then."""
    data = calibrate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, spent = time.perf_counter(), time.process_time()
    result = sc.compress(dense, passes, data=data)
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = {"seconds": seconds, "processor": spent, "before_mb": before / 1024, "peak_mb": peak / 1024}
    return result.graph, taken


def zeros(graph: Graph) -> dict[str, Any]:
    """How much of all layers' weights is sparse and zero, and which share of the sparse weights are 2:4."""
    facts: Known = known(graph)
    total = sparse_weights = gone = 0
    fitting = 0
    for op in graph.ops():
        use = weight_use(facts, op)
        if use is None:
            continue
        array = use.tensor.numpy()
        total += array.size
        share = float(np.mean(array == 0))
        if share >= SPARSE:
            sparse_weights += array.size
            gone += int(share * array.size)
            fitting += array.size * has_pattern(use, 2, 4)
    return {
        "sparse": sparse_weights / max(total, 1),
        "zeros": gone / max(total, 1),
        "two_four": fitting / max(sparse_weights, 1),
    }
