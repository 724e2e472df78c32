"""One cell of the quality table: prune and score a model, or score one that a peer pruned."""

from __future__ import annotations

import json
import re
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import secateur as sc
from quality.task import CACHE, Array, Feeds, Task, pipeline
from quality.tasks import TASKS
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.inspection import macs_of
from secateur.ir import Graph, Op
from secateur.ir.dims.analysis import dimensions
from secateur.ir.dims.groups import Group, groups
from secateur.ir.dims.kinds import Kind, Roles
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.report import Size

CHOSEN: Mapping[str, Callable[[Group, Kind], bool]] = MappingProxyType(
    {
        "FFN": lambda group, kind: kind is Kind.NEURONS,
        "HEADS": lambda group, kind: kind is Kind.HEADS,
        # A key-value head goes with all queries that share it.
        "KEY_VALUES": lambda group, kind: kind is Kind.HEADS and len(group.weights) == 4,
        # What key-value heads share is in queries and outputs alone.
        "QUERIES": lambda group, kind: kind is Kind.HEADS and len(group.weights) == 2,
        # What goes through a depthwise convolution between two pointwise ones; the stem's channels do, too.
        "EXPANDED": lambda group, kind: (
            kind is Kind.CHANNELS and group.size > 32 and any(map(_is_depthwise, group.ops))
        ),
    }
)
"""Which groups `units=NAME:SHARE` means."""


def outputs(graph: Graph, task: Task) -> Array:
    """What the model makes of the data that it is judged on."""
    with OnnxRuntimeRunner(graph) as runner:
        return task.evaluate(runner.run)


def dense_outputs(name: str, task: Task, graph: Graph) -> Array:
    """The same of the dense model, computed once for each file."""
    path = task.model()
    stamp = path.stat()
    place = CACHE / "dense" / f"{name}-{stamp.st_size}-{stamp.st_mtime_ns}.npy"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, outputs(graph, task))
    return np.load(place)


def written_units(amount: str, graph: Graph, folder: str) -> str:
    """The amount with `units=FFN:0.25+HEADS:0.3` replaced by a file that names the groups of these kinds."""
    match = re.search(r"units=([A-Z]\S+)", amount)
    if match is None:
        return amount
    clean = run_pipeline(graph, parse_pipeline("clean"), Context()).graph
    found = dimensions(known(clean))
    roles, kept = Roles(found), {}
    for part in match[1].split("+"):
        kind, _, share = part.partition(":")
        for group in groups(found):
            if group.pin is None and not group.inexact and CHOSEN[kind](group, roles.kind(group)):
                kept[group.name] = group.size - int(group.size * float(share))
    path = Path(folder, "units.json")
    path.write_text(json.dumps(kept))
    return amount.replace(match[0], f'units="{path}"')


def _is_depthwise(op: Op) -> bool:
    return int(op.attribute("group", 1)) > 1


def measure(name: str, amount: str, method: str) -> dict[str, Any]:
    """Figures of one cell; the method is `dense`, options of `prune`, or the file that a peer made."""
    task = TASKS[name]
    dense = sc.load(task.model())
    reference = dense_outputs(name, task, dense)
    taken: dict[str, Any] = {}
    if method == "dense":
        graph = dense
    elif method.endswith(".onnx"):
        graph = sc.load(method)
    else:
        graph, taken = pruned(dense, task, task.amounts[amount], method)
    found = reference if method == "dense" else outputs(graph, task)
    shares = {"macs": macs_of(graph) / macs_of(dense), "params": Size.of(graph).parameters / Size.of(dense).parameters}
    return {"scores": task.judge(found, reference), **shares, **taken}


def pruned(dense: Graph, task: Task, amount: str, method: str) -> tuple[Graph, dict[str, Any]]:
    """The model after its passes, and what these took; the peak is that of the whole process until then."""
    data: list[Feeds] = task.calibrate()
    with tempfile.TemporaryDirectory() as folder:
        passes = pipeline(written_units(amount, dense, folder), method)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, spent = time.perf_counter(), time.process_time()
        result = sc.compress(dense, passes, data=data)
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result.graph, {"seconds": seconds, "processor": spent, "before_mb": before / 1024, "peak_mb": peak / 1024}
