"""Every architecture, dense and compressed, built by TensorRT-RTX: wherever the dense one builds, and as promised?

    python benchmarks/tensorrt_models.py                              # every small model of the zoo, every variant
    python benchmarks/tensorrt_models.py --models resnet50 vit --variants dense pruned-50 int8
    python benchmarks/tensorrt_models.py --formats int8 fp8           # which formats the quantized variants come in

Variants are recipes: a quarter and a half of every exact group pruned, 2:4 weights (all that the pattern fits, however
small), each format of `--formats`, and each format on top of 2:4. The question is what is built of them, not what they
answer: units and zeros are chosen by magnitude, and weights rounded to the nearest. One engine is built for all
targets; where TensorRT refuses that, one for each. Nodes that a model quantizes are proven by the builder's own table
of kernels to run in their format. Nothing is executed: it holds no time of a GPU. Each row goes to
`benchmarks/results/tensorrt_models.json` when it is there; those of other models and variants stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import secateur as sc
from secateur.backends.tensorrt import BuildReport, TargetError, load
from secateur.ir.errors import PassError, SecateurError
from secateur.ir.files import write_atomically

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.zoo import Model, random_feeds, zoo

RESULTS = Path(__file__).parent / "results" / "tensorrt_models.json"
TARGETS = ("8.0", "8.6", "8.9", "12.0")
FORMATS = ("int8",)
PLAIN = {
    "dense": "",
    "pruned-25": "prune{ratio=0.25,criterion=magnitude,repair=none}",
    "pruned-50": "prune{ratio=0.5,criterion=magnitude,repair=none}",
    "2:4": "sparsify{pattern=2:4,worthwhile=false,criterion=magnitude,repair=none}",
}

_FRAME = {"input": (1, 576), "state": (2, 1, 128)}
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "vad": _FRAME,
    "vad-half": _FRAME,
    "ocr-recogniser": {"x": (2, 3, 48, 160)},
    "ocr-classifier": {"x": (2, 3, 48, 192)},
}
"""Inputs that have to have certain sizes, which the model does not say: one frame of sound, a line of text."""


@dataclass(frozen=True)
class Row:
    """One model in one variant.

    `built` are targets that an engine was built for, `refused` the others, each with TensorRT's reason, `lacking` those
    of them that have no hardware for a type of the variant; `failed` says why there is no such variant at all.
    `quantized` nodes, of which `honoured` run in their format, and the names of those that don't; `weights` of which so
    many are 2:4, are `eligible` for sparse kernels, have sizes that kernels of the type want (`aligned`).
    """

    model: str
    variant: str
    parameters: int = 0
    built: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    failed: str | None = None
    seconds: float = 0.0
    bytes: int = 0
    quantized: int = 0
    honoured: int = 0
    in_float: tuple[str, ...] = ()
    weights: int = 0
    sparse: int = 0
    eligible: int = 0
    aligned: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What a row replaces in an older table."""
        return self.model, self.variant


def variants(formats: Sequence[str]) -> dict[str, str]:
    """Recipes by the names of variants; "" leaves the model as it is."""
    found = dict(PLAIN)
    for one in formats:
        found[one] = f"quantize{{format={one},rounding=nearest}}"
        found[f"2:4+{one}"] = f"{PLAIN['2:4']},{found[one]}"
    return found


def measure(model: Model, recipes: Mapping[str, str], targets: Sequence[str]) -> Iterator[Row]:
    """A row for each variant of a model."""
    dense = model()
    feeds = random_feeds(dense) | _sized(model.name)
    shapes = {name: tuple(array.shape) for name, array in feeds.items()}
    made = {"": dense}
    for variant, recipe in recipes.items():
        done = max((one for one in made if recipe.startswith(one)), key=len)
        try:
            graph = made[done]
            if rest := recipe.removeprefix(done).lstrip(","):
                graph = made[recipe] = sc.compress(graph, rest, data=[feeds]).graph
        except (SecateurError, PassError) as error:
            yield Row(model.name, variant, failed=_first_line(error))
            continue
        yield _row(model.name, variant, graph, {one: shapes[one] for one in _open(graph)}, targets)


def _sized(name: str) -> dict[str, np.ndarray]:
    """Numbers for the inputs of `SIZES`."""
    random = np.random.default_rng(0)
    return {key: random.standard_normal(shape).astype(np.float32) for key, shape in SIZES.get(name, {}).items()}


def _open(graph: sc.Graph) -> list[str]:
    """Inputs whose sizes are not fixed."""
    return [
        value.name
        for value in graph.inputs
        if not all(isinstance(size, int) for size in getattr(value.type, "shape", None) or ())
    ]


def _row(name: str, variant: str, graph: sc.Graph, shapes: Mapping[str, Any], targets: Sequence[str]) -> Row:
    started = time.perf_counter()
    built: list[str] = []
    refused: dict[str, str] = {}
    lacking: list[str] = []
    last: BuildReport | None = None
    with tempfile.TemporaryDirectory() as folder:
        for some in (tuple(targets), *((one,) for one in targets)):
            if built == list(targets):
                break
            try:
                last = sc.build(
                    graph,
                    Path(folder) / "e",
                    compute_capability=some,
                    shapes=dict(shapes),
                    sparse_weights="2:4" in variant,
                ).build
                built += some
            except SecateurError as error:
                if len(some) == 1:
                    refused[some[0]] = _first_line(error)
                    lacking += some if isinstance(error, TargetError) else ()
    size = sc.inspect(graph).size.parameters
    took = time.perf_counter() - started
    row = Row(name, variant, size, tuple(built), refused, tuple(lacking), seconds=took)
    if last is None:
        return row
    nodes = last.precision or ()
    return Row(
        **{
            **asdict(row),
            "built": row.built,
            "lacking": row.lacking,
            "bytes": last.bytes,
            "quantized": len(nodes),
            "honoured": sum(one.is_honoured for one in nodes),
            "in_float": tuple(str(one) for one in nodes if not one.is_honoured),
            "weights": len(last.weights),
            "sparse": sum(one.is_sparse for one in last.weights),
            "eligible": sum(one.eligible for one in last.weights),
            "aligned": sum(one.aligned for one in last.weights),
        }
    )


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "message", error)).splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[:2])[:200]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What must hold, and where it doesn't: `lost` are targets that build the dense model and could build this."""
    dense = {row.model: set(row.built) for row in rows if row.variant == "dense"}
    missing = {row.key: dense.get(row.model, set()) - {*row.built, *row.lacking} for row in rows if not row.failed}
    lost = [f"{' '.join(key)}: {', '.join(sorted(targets, key=float))}" for key, targets in missing.items() if targets]
    return {
        "models": len({row.model for row in rows}),
        "rows": len(rows),
        "built": sum(bool(row.built) for row in rows),
        "lost": lost,
        "no_such_variant": [f"{row.model} {row.variant}: {row.failed}" for row in rows if row.failed is not None],
        "quantized_nodes": sum(row.quantized for row in rows),
        "in_float": [f"{row.model} {row.variant}: {one}" for row in rows for one in row.in_float],
    }


def show(rows: Sequence[Row], targets: Sequence[str]) -> None:
    """The table, and what does not hold."""
    table = Table("model", "variant", "parameters", *targets, "engine MB", "quantized", "2:4", "eligible", "aligned")
    for row in rows:
        marks = ["yes" if one in row.built else "-" if one in row.refused else "" for one in targets]
        share = f"{row.honoured}/{row.quantized}" if row.quantized else ""
        table.add_row(
            row.model,
            row.variant,
            row.failed or f"{row.parameters:,}",
            *marks,
            f"{row.bytes / 1e6:.2f}" if row.bytes else "",
            share,
            f"{row.sparse}/{row.weights}",
            str(row.eligible),
            str(row.aligned),
        )
    console = Console(width=160)
    console.print(table)
    for name, value in summary(rows).items():
        console.print(f"{name}: {value}", markup=False)


def merged(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows of an older table with these in place of its own."""
    old: list[Row] = []
    if path.is_file():
        for entry in json.loads(path.read_text())["rows"]:
            old.append(
                Row(
                    **{
                        **entry,
                        "built": tuple(entry["built"]),
                        "lacking": tuple(entry["lacking"]),
                        "in_float": tuple(entry["in_float"]),
                    }
                )
            )
    found = {row.key: row for row in (*old, *rows)}
    return sorted(found.values(), key=lambda row: row.model)


def save(table: Sequence[Row], targets: Sequence[str], path: Path) -> None:
    """The table with what it sums up to."""
    trt = load("tensorrt-rtx")
    document = {
        "built_with": f"{trt.flavor} {trt.version}",
        "targets": targets,
        "summary": summary(table),
        "rows": [asdict(row) for row in table],
    }
    with write_atomically(path) as (temporary,):
        temporary.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """One command: builds, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names of the zoo; all small ones by default")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--variants", nargs="*", help="of those that there are; all by default")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    models, recipes = zoo("small", "real", "full"), variants(asked.formats)
    if unknown := [*(set(asked.models or ()) - set(models)), *(set(asked.variants or ()) - set(recipes))]:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join((*models, *recipes))}")
    chosen = {name: recipe for name, recipe in recipes.items() if not asked.variants or name in asked.variants}
    table = merged([], asked.output)
    for name in asked.models or zoo("small"):
        print(name, file=sys.stderr, flush=True)
        for row in measure(models[name], chosen, asked.targets):
            table = merged([row], asked.output)
            save(table, asked.targets, asked.output)
    show(table, asked.targets)


if __name__ == "__main__":
    main()
