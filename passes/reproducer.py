"""A folder from which the failure of a pass can be seen again: the model just before it, the pass, the seed."""

from __future__ import annotations

import json
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from secateur.ir import Graph
from secateur.ir.errors import DataError, SecateurError
from secateur.passes.base import Pass
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.report import Size

_LARGEST_MODEL = 1 << 30


class Reproducer(NamedTuple):
    """What to run again."""

    graph: Graph
    passes: tuple[Pass, ...]
    seed: int


def write_reproducer(graph: Graph, running: Pass, seed: int, error: BaseException, folder: Path | None = None) -> str:
    """Writes `model.onnx`, `model.txt`, `run.json` and `error.txt` into a new folder and returns its path.

    The model is left out where its weights take more than 1 GiB. Never raises for what cannot be written: the error
    that led here matters more. The path is "" where not even a folder could be made.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"secateur-{running.name}-", dir=folder))
        (target / "error.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        (target / "run.json").write_text(json.dumps({"pipeline": str(running), "seed": seed}, indent=1) + "\n")
    except OSError:
        return ""
    try:
        (target / "model.txt").write_text(f"{graph}\n", encoding="utf-8")
        if Size.of(graph).bytes <= _LARGEST_MODEL:
            graph.save(target / "model.onnx")
    except (OSError, SecateurError) as second:
        (target / "model-error.txt").write_text(str(second), encoding="utf-8")
    return str(target)


def read_reproducer(folder: str | Path) -> Reproducer:
    """Reads what `write_reproducer` wrote.

    Raises:
        DataError: it is no such folder, or the model was too large to be kept.
        TextError: the pass does not exist here.
    """
    from secateur.ir.onnx_read import load

    path = Path(folder)
    try:
        run = json.loads((path / "run.json").read_text(encoding="utf-8"))
        passes, seed = parse_pipeline(str(run["pipeline"])), int(run["seed"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is no reproducer: {error}", hint="give the folder that the error named") from error
    if not (path / "model.onnx").is_file():
        raise DataError(f"{folder} holds no model", hint="it was too large; run the pipeline on the original model")
    return Reproducer(load(path / "model.onnx"), passes, seed)
