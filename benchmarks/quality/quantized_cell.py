"""One cell of the table of quantization: run a pipeline and score what it leaves, or score what a peer left."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import secateur as sc
from quality import cell, quantized, sparse_cell
from quality.task import Array, Feeds, Task

FLOAT8 = frozenset({17, 18, 19, 20})
"""As ONNX numbers its types."""


def measure(name: str, form: str, method: str) -> dict[str, Any]:
    """Figures of one cell: of a row by its name, or of the file that a peer made."""
    task = quantized.TASKS[name]
    dense = sc.load(task.model())
    expected = cell.dense_outputs(name, task, dense)
    if method == quantized.FLOAT:
        return {"scores": task.judge(expected, expected), "file_mb": Path(task.model()).stat().st_size / 1e6}
    if method.endswith(".onnx"):
        return scored(method, task, expected)
    graph, taken = sparse_cell.compressed(dense, task.calibrate, quantized.METHODS[method].pipeline(form))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "quantized.onnx"))
        graph.save(path)
        return {**scored(path, task, expected), **taken}


def scored(path: str, task: Task, expected: Array) -> dict[str, Any]:
    """What onnxruntime makes of a file, all tools' alike, and what is in it."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = onnx.load(path, load_external_data=False).graph
    if any(one.data_type in FLOAT8 for one in content.initializer):  # onnxruntime 1.31 takes its codes for integers
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [one.name for one in session.get_outputs()]

    def run(feeds: Feeds) -> Mapping[str, Array]:
        return dict(zip(wanted, session.run(wanted, feeds), strict=True))

    kinds = Counter(node.op_type for node in content.node)
    return {
        "scores": task.judge(task.evaluate(run), expected),
        "quantizers": kinds["QuantizeLinear"],
        "dequantizers": kinds["DequantizeLinear"],
        "file_mb": Path(path).stat().st_size / 1e6,
    }
