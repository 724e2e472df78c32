"""How often the linter says what TensorRT-RTX says, on the single-operator models of onnx's own backend tests.

    python benchmarks/tensorrt_lint.py [--workers 2] [--name PART] [--way first]

Each model is built for one target in three ways:

    first  all inputs but the first are constants, as in a network
    all    all inputs are fed
    half   as `first`, with float16 wherever float32 was; only models that are still valid ONNX

What the parser and the builder said is asked for once and kept in `results/tensorrt_lint.json`, with what the linter
says now: a second run, or one that goes on after an interrupt, builds what is missing and lints every model anew. A
model on which TensorRT hangs or dies counts as refused. The rules were written with the verdicts of `first` and then
of the other two at hand, so the first look at each way, before its disagreements were read, is kept as well.

The verdict of the linter is "refused" or "taken"; a disagreement is a model on which it is not the builder's. Models
for which the test's own feeds make no profile that TensorRT takes are undecided, and count nowhere.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

RESULTS = Path(__file__).parent / "results" / "tensorrt_lint.json"
TARGET = "8.9"
CAPABILITY = (8, 9)
SECONDS = 60
Case = dict[str, Any]


def cases() -> dict[str, tuple[onnx.ModelProto, list[Any]]]:
    """The models by way and name, `first/test_abs`, and what the test feeds."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, tuple[onnx.ModelProto, list[Any]]] = {}
    for case in load_model_tests(kind="node"):
        feeds = list(case.data_sets[0][0])
        for way, change in WAYS.items():
            proto = change(case.model, feeds)
            if proto is not None:
                fed = [one.astype(np.float16) if way == "half" and _is_single(one) else one for one in feeds]
                found[f"{way}/{case.name}"] = (proto, fed)
    return dict(sorted(found.items()))


def _is_single(feed: Any) -> bool:
    return isinstance(feed, np.ndarray) and feed.dtype == np.float32


def open_model(model: onnx.ModelProto, feeds: Sequence[Any]) -> onnx.ModelProto:
    """The model as it is."""
    return model


def half(model: onnx.ModelProto, feeds: Sequence[Any]) -> onnx.ModelProto | None:
    """The model with all but its first input as constants, in float16; None where that is none, or the same."""
    proto = frozen(model, feeds)
    before = proto.SerializeToString()
    _halve(proto.graph)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return None
    return None if proto.SerializeToString() == before else proto


def _halve(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for entry in (*graph.input, *graph.output):
        if entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            entry.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    tensors = [*graph.initializer, *(one.t for node in graph.node for one in node.attribute if one.HasField("t"))]
    for tensor in tensors:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _halve(attribute.g)


def frozen(model: onnx.ModelProto, feeds: Sequence[Any]) -> onnx.ModelProto:
    """The model with its inputs but the first as constants, where they are tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    graph = proto.graph
    kept = list(graph.input[:1])
    for entry, feed in list(zip(graph.input, feeds, strict=False))[1:]:
        tensor = tensor_of(feed, entry)
        if tensor is None:
            kept.append(entry)
        else:
            graph.initializer.append(tensor)
    kept.extend(graph.input[max(1, len(feeds)) :])
    del graph.input[:]
    graph.input.extend(kept)
    return proto


def tensor_of(feed: Any, entry: onnx.ValueInfoProto) -> onnx.TensorProto | None:
    """A feed as an initializer of the input's own type; None for a sequence, an optional, or nothing at all."""
    if not entry.type.HasField("tensor_type"):
        return None
    if isinstance(feed, onnx.TensorProto):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(feed)
        tensor.name = entry.name
        return tensor
    if not isinstance(feed, np.ndarray | np.generic):
        return None
    return numpy_helper.from_array(np.asarray(feed), entry.name)


WAYS: dict[str, Callable[[onnx.ModelProto, Sequence[Any]], onnx.ModelProto | None]] = {
    "first": frozen,
    "all": open_model,
    "half": half,
}


def verdict(name: str, proto: onnx.ModelProto, feeds: Sequence[Any]) -> Case:
    """What the parser and the builder say of one model."""
    from secateur.backends.tensorrt import BuildOptions, Profile, ProfileError, UnsupportedModel, build
    from secateur.ir.errors import SecateurError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        ranges: dict[str, Any] = {}
        row: Case = {"name": name, "op": main_op(proto)}
        for _ in range(9):
            options = BuildOptions(
                flavor="tensorrt-rtx",
                compute_capabilities=(TARGET,),
                optimization_level=0,
                profiles=(Profile(tuple(ranges.values())),) if ranges else (),
            )
            try:
                report = build(path, Path(folder) / "out.engine", options)
            except ProfileError as error:
                given = profile_of(error.input, proto, feeds)
                if given is None or given.input in ranges:
                    return {**row, "builder": "profile", "message": error.message}
                ranges[given.input] = given
                continue
            except UnsupportedModel as error:
                code = error.refusals[0].code
                stage = "builder" if code == "NO_KERNEL" else "parser"
                return {**row, "builder": stage, "message": _said("; ".join(map(str, error.refusals)), path)}
            except SecateurError as error:
                return {**row, "builder": "builder", "message": _said(f"{type(error).__name__}: {error.message}", path)}
            return {**row, "builder": "builds", "message": "; ".join(report.notes)[:300]}
        return {**row, "builder": "profile", "message": "no profile was good enough"}


def _said(message: str, path: Path) -> str:
    return message.replace(str(path), "the model")[:300]


def profile_of(name: str | None, proto: onnx.ModelProto, feeds: Sequence[Any]) -> Any:
    """The range of one input that the test's own feed fits: its values where they are a shape, else its sizes."""
    from secateur.backends.tensorrt import ShapeRange

    for entry, feed in zip(proto.graph.input, feeds, strict=False):
        if name in (entry.name, None) and isinstance(feed, np.ndarray | np.generic):
            fixed = all(size.HasField("dim_value") for size in entry.type.tensor_type.shape.dim)
            integers = feed.dtype.kind in "iu" and fixed
            sizes = tuple(map(int, np.ravel(feed))) if integers else feed.shape
            return ShapeRange(entry.name, sizes, sizes, sizes) if all(size >= 0 for size in sizes) else None
    return None


def main_op(proto: onnx.ModelProto) -> str:
    """The operator that a model is there for."""
    return "+".join(sorted({node.op_type for node in proto.graph.node}))[:80]


def serve(names: Sequence[str], pipe: Connection) -> None:
    """A worker: says which model it takes up, then what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    models = cases()
    for name in names:
        pipe.send(("begins", name))
        pipe.send(("ended", verdict(name, *models[name])))
    pipe.send(("done", None))


class Pool:
    """Workers that each go through a share of the names; one that hangs or dies is replaced, its model noted."""

    def __init__(self, names: Sequence[str], count: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._shares = [list(names[start::count]) for start in range(count)]

    def run(self) -> Iterator[Case]:
        """The verdicts as they come."""
        running = {pipe: entry for share in self._shares if share for pipe, entry in [self._start(share)]}
        while running:
            ready = wait(list(running), timeout=SECONDS)
            for pipe in ready or list(running):
                worker, share, current = running.pop(pipe)
                what, found = self._receive(pipe) if pipe in ready else ("hangs", None)
                if what == "begins":
                    running[pipe] = (worker, share, found)
                elif what == "ended":
                    share.remove(found["name"])
                    running[pipe] = (worker, share, "")
                    yield found
                else:
                    worker.kill()
                    worker.join()
                    if what == "done":
                        continue
                    if current:
                        share.remove(current)
                        yield {"name": current, "op": "", "builder": "builder", "message": f"the process {what}"}
                    if share:
                        again, entry = self._start(share)
                        running[again] = entry

    def _start(self, share: list[str]) -> tuple[Connection, tuple[Any, list[str], str]]:
        ours, theirs = self._context.Pipe(duplex=False)
        worker = self._context.Process(target=serve, args=(list(share), theirs), daemon=True)
        worker.start()
        theirs.close()
        return ours, (worker, share, "")

    @staticmethod
    def _receive(pipe: Connection) -> tuple[str, Any]:
        try:
            return pipe.recv()  # type: ignore[no-any-return]
        except EOFError:
            return "dies", None


def gather(names: Sequence[str], known: dict[str, Case], workers: int) -> None:
    """Builds what is not known yet; keeps each verdict at once, in a file of lines beside the results."""
    journal = RESULTS.with_suffix(".jsonl")
    if journal.exists():
        known.update((row["name"], row) for row in map(json.loads, journal.read_text().splitlines()))
    missing = [name for name in names if name not in known]
    if not missing:
        return
    with journal.open("a") as file:
        for row in Pool(missing, workers).run():
            known[row["name"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()


def linted(proto: onnx.ModelProto) -> tuple[str, list[str]]:
    """The linter's verdict and its findings."""
    from secateur.backends.tensorrt.lint import Severity, Target, lint
    from secateur.ir.errors import SecateurError
    from secateur.ir.onnx_read import from_proto
    from secateur.ir.onnx_shapes import infer
    from secateur.ir.rules.known import Known

    try:
        graph = from_proto(proto)
    except SecateurError as error:
        return "refused", [error.message]
    found = lint(Known(graph, infer(graph)), Target("tensorrt-rtx", (CAPABILITY,)))
    refused = any(one.severity is Severity.REFUSED for one in found)
    return "refused" if refused else "taken", [str(one) for one in found]


def compare(names: Sequence[str], models: dict[str, Any], known: dict[str, Case]) -> dict[str, Any]:
    """Figures for each way, and each model with both verdicts; `disagreements` names those that differ."""
    rows, agreed, total, open_ones, differ = [], Counter[str](), Counter[str](), Counter[str](), []
    for name in names:
        row = {key: known[name][key] for key in ("name", "op", "builder", "message")}
        row["lint"], findings = linted(models[name][0])
        rows.append(row)
        way = name.partition("/")[0]
        if row["builder"] == "profile":
            open_ones[way] += 1
            continue
        same = (row["builder"] in ("parser", "builder")) == (row["lint"] == "refused")
        total[way] += 1
        agreed[way] += same
        if not same:
            differ.append({**row, "findings": findings})
    figures = {
        way: {
            "models": total[way],
            "agree": agreed[way],
            "share": round(agreed[way] / total[way], 4),
            "undecided": open_ones[way],
        }
        for way in total
    }
    return {"target": TARGET, "agreement": figures, "disagreements": differ, "models": rows}


def save(found: dict[str, Any], first_looks: dict[str, Any]) -> None:
    """Writes the results, one line a model."""
    head = {key: value for key, value in found.items() if key != "models"}
    head["first_looks"] = first_looks
    text = json.dumps(head, indent=1).removesuffix("\n}")
    lines = ",\n".join("  " + json.dumps(row) for row in found["models"])
    RESULTS.write_text(f'{text},\n "models": [\n{lines}\n ]\n}}\n')


def main(arguments: Sequence[str]) -> int:
    """Gathers what is missing, lints, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="", help="only models with this in their name; nothing is written then")
    parser.add_argument("--way", choices=WAYS, help="one way only; nothing is written then")
    given = parser.parse_args(arguments)
    models = cases()
    names = [name for name in models if given.name in name and name.startswith(given.way or "")]
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"models": [], "first_looks": {}}
    known: dict[str, Case] = {row["name"]: row for row in before["models"]}
    gather(names, known, given.workers)
    found = compare(names, models, known)
    for way, figures in found["agreement"].items():
        print(f"{way}: {figures['agree']} of {figures['models']} agree ({figures['share']:.1%})")
    for row in found["disagreements"]:
        print(
            f"  {row['name']}: builder {row['builder']}: {row['message'][:160]}; lint {row['lint']} {row['findings']}"
        )
    if not given.name and given.way is None:
        looks = {way: before["first_looks"].get(way, one) for way, one in found["agreement"].items()}
        save(found, looks)
        RESULTS.with_suffix(".jsonl").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
