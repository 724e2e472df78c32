"""What becomes of one model when half of every exact group is removed, and of large graphs; a process of its own each.

    python pruning_reach.py speed|reach|growth|oracle NAME RUNS

Prints one line of JSON. `pruning.py` calls this and makes the tables.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from helpers.mask_oracle import analyse, choose, difference, free, masked, pruned
from helpers.mask_oracle import run as outputs
from helpers.zoo import random_feeds, zoo

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.ir import Graph
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.dims.analysis import dimensions
from secateur.ir.dims.groups import groups
from secateur.ir.errors import SecateurError
from secateur.ir.onnx_write import to_bytes
from secateur.passes.cleanup.shapes import known
from secateur.passes.context import Context
from secateur.passes.manager import run_pipeline
from secateur.passes.pipeline import parse_pipeline

PRUNE = "prune{ratio=0.5, dims=all, criterion=magnitude, repair=none, align=1}"
LONGEST_BUILD = 60
"""Seconds that an engine may take."""


def parameters(graph: Graph) -> int:
    """Floating-point numbers in constants."""
    values = (value for inner in graph.graphs() for value in inner.constants())
    tensors = [value.const for value in values if value.const is not None]
    return sum(math.prod(tensor.shape) for tensor in tensors if tensor.dtype.is_float)


def analysed(graph: Graph) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of shape inference, analysis and the list of groups; and how many groups there are."""
    start = time.process_time()
    shapes = known(graph)
    inferred = time.process_time()
    found = dimensions(shapes)
    walked = time.process_time()
    everything = groups(found)
    listed = time.process_time()
    kernels = [group for group in everything if group.pin is not None and group.pin.endswith("a kernel of this size")]
    counts = {
        "ops": len(graph.ops()),
        "free": sum(group.pin is None and group.inexact is None for group in everything),
        "inexact": sum(group.pin is None and group.inexact is not None for group in everything),
        "pinned": sum(group.pin is not None for group in everything) - len(kernels),
        "boundaries": len(found.boundaries),
        "reasons": sorted(set(found.boundaries.values()))[:3],
    }
    seconds = {"inference": inferred - start, "analysis": walked - inferred, "groups": listed - walked}
    return seconds, counts


def speed(name: str, runs: int) -> dict[str, Any]:
    """Seconds of each step, fresh each time; `prune` is the whole pass, its own analysis and checks included."""
    graph = zoo("full")[f"{name}-full"]()
    warm(graph)
    taken, counts, smaller = [], {}, graph
    for _ in range(runs):
        seconds, counts = analysed(graph)
        start = time.process_time()
        smaller = run_pipeline(graph, parse_pipeline(PRUNE), Context()).graph
        taken.append(seconds | {"prune": time.process_time() - start})
    return {"runs": taken, **counts, "kept": parameters(smaller) / max(1, parameters(graph))}


def warm(graph: Graph) -> None:
    """Reads the weights once, so that no run waits for the disk (the peers hold theirs in memory, too)."""
    for value in graph.constants():
        if value.const is not None and value.const.dtype.is_float:
            value.const.numpy().sum()


def reach(name: str, runs: int) -> dict[str, Any]:
    """Groups, parameters kept, and what takes the dense and the pruned model.

    Of models in true size the dense one is tried only where the pruned one is not taken.
    """
    graph = cleaned(name)
    _, counts = analysed(graph)
    result: dict[str, Any] = {**counts, "parameters": parameters(graph)}
    is_large = name in zoo("full")
    if not is_large:
        result["dense"] = takers(graph)
    try:
        smaller = run_pipeline(graph, parse_pipeline(PRUNE), Context()).graph
    except SecateurError as error:
        return result | {"failure": brief(error)}
    result |= {"kept": parameters(smaller) / max(1, parameters(graph)), "pruned": takers(smaller)}
    if is_large and set(result["pruned"].values()) != {"ok"}:
        result["dense"] = takers(graph)
    return result


def oracle(name: str, runs: int) -> dict[str, Any]:
    """The largest error of an output, relative to its largest magnitude, between masking and removing half of all."""
    graph, random = cleaned(name), np.random.default_rng(0)
    kept = {number: choose(group.size, 0.5, random) for number, group in enumerate(free(analyse(graph)))}
    feeds = random_feeds(graph)
    try:
        error = difference(outputs(masked(graph, kept), feeds), outputs(pruned(graph, kept), feeds))
    except (SecateurError, AssertionError) as failure:
        return {"free": len(kept), "failure": brief(failure)}
    return {"free": len(kept), "error": error}


def cleaned(name: str) -> Graph:
    """A model of the zoo with its constants folded, as `compress` prunes it."""
    return run_pipeline(zoo("small", "real", "light", "full")[name](), parse_pipeline("clean"), runnable()).graph


def runnable() -> Context:
    """For passes that run the graph to fold constants."""
    return Context(runner=OnnxRuntimeRunner)


def takers(graph: Graph) -> dict[str, str]:
    """For onnx's checker, onnxruntime and TensorRT-RTX: "ok", or why not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(to_bytes(graph))
        feeds = random_feeds(graph)
        checks: dict[str, Callable[[], None]] = {
            "checker": lambda: check(path),
            "onnxruntime": lambda: run(graph, feeds),
            "tensorrt-rtx": lambda: within(LONGEST_BUILD, lambda: build(path, feeds)),
        }
        return {name: outcome(one).replace(folder, "...") for name, one in checks.items()}


def outcome(one: Callable[[], None]) -> str:
    """ "ok", or the error in a line."""
    try:
        one()
    except ModuleNotFoundError as error:
        return f"not installed ({error.name})"
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is the result
        return brief(error)
    return "ok"


class Said(Exception):
    """What a process said, as it is."""


def within(seconds: int, one: Callable[[], None]) -> None:
    """Runs something in a process of its own, which can be ended."""
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=lambda: writer.send(outcome(one)))
    child.start()
    writer.close()
    done = reader.poll(seconds)
    try:
        said = reader.recv() if done else f"took longer than {seconds} s"
    except EOFError:
        said = "ended without a word"
    if not done:
        child.kill()
    child.join()
    if said != "ok":
        raise Said(said)


def brief(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, Said):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:240]}"


def check(path: Path) -> None:
    """onnx's checker, shapes included."""
    import onnx

    onnx.checker.check_model(str(path), full_check=True)


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    """onnxruntime, and the shapes that the graph declares."""
    with OnnxRuntimeRunner(graph, threads=1) as runner:
        found = runner.run(feeds)
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")


def build(path: Path, feeds: dict[str, np.ndarray]) -> None:
    """TensorRT-RTX's builder; inputs of no fixed size get the size of `feeds`."""
    import tensorrt_rtx  # noqa: F401 - to say that it is missing

    from secateur.backends.tensorrt import BuildOptions, Profile, ShapeRange, build
    from secateur.ir.onnx_read import load

    open_inputs = [
        value.name
        for value in load(path).inputs
        if value.name in feeds and not all(isinstance(size, int) for size in getattr(value.type, "shape", ()) or ())
    ]
    ranges = tuple(ShapeRange(name, *[tuple(feeds[name].shape)] * 3) for name in open_inputs)
    profiles = (Profile(ranges),) if ranges else ()
    build(path, path.with_suffix(".engine"), BuildOptions("tensorrt-rtx", profiles=profiles))


def residual(blocks: int, width: int, kernel: int) -> Graph:
    """`blocks` times two convolutions around a trunk: five ops each. All blocks have the same numbers in memory."""
    graph = Graph("residual")
    random = np.random.default_rng(0)
    numbers = random.normal(size=(width, width, kernel, kernel)).astype(np.float32)
    pads = [kernel // 2] * 4
    value = add_input(graph, "x", [1, 3, 8, 8])
    value = emit(graph, "Conv", [value, add_constant(graph, "stem", numbers[:, :3, :1, :1].copy())]).output
    for index in range(blocks):
        inner = value
        for place in "ab":
            weight = add_constant(graph, f"{index}{place}", numbers)
            inner = emit(graph, "Conv", [inner, weight], {"pads": pads}).output
            if place == "a":
                inner = emit(graph, "Relu", [inner]).output
        value = emit(graph, "Relu", [emit(graph, "Add", [value, inner]).output]).output
    value = emit(graph, "Conv", [value, add_constant(graph, "head", numbers[:5, :, :1, :1].copy())]).output
    graph.set_interface(outputs=[value])
    return graph


GRAPHS: dict[str, Callable[[], Graph]] = {
    "30 blocks of 512": lambda: residual(30, 512, 3),
    "60 blocks of 512": lambda: residual(60, 512, 3),
    "25,000 ops": lambda: residual(5_000, 8, 1),
    "50,000 ops": lambda: residual(10_000, 8, 1),
}


def growth(name: str, runs: int) -> dict[str, Any]:
    """Seconds of the analysis, and of the whole pass once."""
    graph = GRAPHS[name]()
    taken, counts = [], {}
    for _ in range(runs):
        seconds, counts = analysed(graph)
        taken.append(seconds)
    start = time.process_time()
    smaller = run_pipeline(graph, parse_pipeline(PRUNE), Context()).graph
    taken[0]["prune"] = time.process_time() - start
    return {"runs": taken, **counts, "kept": parameters(smaller) / max(1, parameters(graph))}


def main() -> None:
    """The command line."""
    what, name, runs = sys.argv[1:4]
    parts = {"speed": speed, "reach": reach, "growth": growth, "oracle": oracle}
    print("RESULT " + json.dumps(parts[what](name, int(runs))))


if __name__ == "__main__":
    main()
