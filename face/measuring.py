"""`times`: what a model's matrix products take on this machine's GPU by TensorRT, dense and 2:4, format by format."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from secateur.backends.tensorrt.errors import BuildFailed, PrecisionNotHonoured, TargetError, UnsupportedModel
from secateur.backends.tensorrt.options import BuildOptions
from secateur.backends.tensorrt.products import FORMATS, product
from secateur.backends.tensorrt.stopwatch import EngineStopwatch
from secateur.feeding import ModelLike, graph_of, refuse_unknown, title_of
from secateur.ir.errors import RefusedError
from secateur.ir.files import check_writable, write_atomically
from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.measured_times import prepare, table_path
from secateur.ir.onnx_shapes import infer
from secateur.ir.rules.known import Known
from secateur.ir.rules.sparse_kernels import INPUTS, OUTPUTS
from secateur.ir.runner import Stopwatch
from secateur.ir.sizes import with_sizes
from secateur.ir.targets import Format
from secateur.passes.context import Progress, silent
from secateur.passes.layers.gains import Product, products
from secateur.text import Shown, heading, notes, table

if TYPE_CHECKING:
    from rich.console import RenderableType

OPTIONS = BuildOptions(sparse_weights=True, require_precision="as-quantized")
"""How products are built: what is timed in a format is computed in it, by a sparse kernel where one is the faster."""
ALONE = (
    "each product ran by itself, again and again, so that what fits into the cache stayed there: the smallest are "
    "faster here than in a model; where 2:4 gains nothing, TensorRT may have taken a dense kernel for it"
)
_REFUSALS = (BuildFailed, PrecisionNotHonoured, TargetError, UnsupportedModel)


class Sizes(TypedDict, total=False):
    """Shapes of inputs by name, and the batch where those leave it open."""

    shapes: Mapping[str, Sequence[int]]
    batch: int | None


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of [rows, inputs] x [inputs, outputs]; `sparse` is None where inputs are no multiple of 4."""

    format: str
    rows: int
    inputs: int
    outputs: int
    dense: float
    sparse: float | None

    @property
    def is_aligned(self) -> bool:
        """Whether sizes are such that a sparse kernel can take it as it is."""
        return not self.inputs % INPUTS[Format(self.format)] and not self.outputs % OUTPUTS


@dataclass(frozen=True)
class KernelMeasurement(Shown):
    """What was measured, on what (`labels`: device, capability, package, version), and where it was written."""

    model: str
    labels: Mapping[str, str]
    times: tuple[KernelTime, ...]
    file: Path
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What is in the file, as far as this model goes, and the rest."""
        own = {"model": self.model, "file": str(self.file), "remarks": self.remarks}
        return {**own, **_document(self.labels, [asdict(one) for one in self.times])}

    def blocks(self) -> Iterable[RenderableType]:
        """A row for each product."""
        labels = self.labels
        title = f"{self.model} on {labels['device']} ({labels['capability']})"
        yield heading(f"{title}, {labels['package']} {labels['version']}", first=True)
        yield table(list(self._rows()), gap=True)
        yield from notes(self.remarks)

    def _rows(self) -> Iterator[dict[str, object]]:
        for one in self.times:
            sizes = {"format": one.format, "rows": one.rows, "inputs": one.inputs, "outputs": one.outputs}
            gain = None if one.sparse is None else f"{one.dense / one.sparse:.2f}"
            yield {**sizes, "aligned": one.is_aligned, "dense us": one.dense, "2:4 us": one.sparse, "gain": gain}


def measure_kernels(
    model: ModelLike,
    formats: Sequence[str] = ("fp16", "int8", "fp8"),
    rows: Sequence[int] = (),
    *,
    output: str | os.PathLike[str] | None = None,
    stopwatch: EngineStopwatch | None = None,
    progress: Progress | None = None,
    **sizes: Unpack[Sizes],
) -> KernelMeasurement:
    """Times each matrix product of a model as an engine of its own, dense and with 2:4 weights, and writes a table.

    `advise --times`, `sparsify{times=}` and `mix-precision{times=}` read such tables. A product whose sizes no sparse
    kernel takes is measured at the next sizes, too, that one takes. What was timed before on the same device by the
    same version is not timed again.

    Args:
        model: a graph, or the path of an ONNX file.
        formats: of fp16, bf16, int8, fp8. Those that TensorRT refuses on this device are left out, with a remark.
        rows: how many vectors each weight is multiplied with, instead of those that the model's shapes come to.
        output: a JSON file; None for the table of this device, package and version in
            `secateur.ir.measured_times.times_folder`, where `times="measured"` finds it; what is in there stays.
        stopwatch: what times; None for a GPU that torch finds, and the installed TensorRT.
        progress: told `(description, done, total)` as the work goes on.
        sizes: `shapes` of inputs by name, `batch` for what those leave open.

    Raises:
        BackendUnavailable: no GPU, or no TensorRT; before anything is built.
        ModelError: the file is no model.
        DataError: a shape does not fit or stays open, or what was kept before cannot be read.
        RefusedError: there is no such format, the model has no product, or TensorRT refuses all of them.
        OutputError: the table cannot be written.
    """
    refuse_unknown(sizes, Sizes, "measure_kernels")
    wanted = _formats(formats)
    if any(count < 1 for count in rows):
        raise RefusedError(f"rows must be at least 1, found {list(rows)}", hint="give positive numbers")
    clock = stopwatch or EngineStopwatch(OPTIONS)
    bench = clock.bench()
    target = table_path(bench.name, clock.folder) if output is None else Path(output)
    (prepare if output is None else check_writable)(target)
    before = _rows_of(target) if output is None else []
    shapes = {name: tuple(shape) for name, shape in sizes.get("shapes", {}).items()}
    graph = with_sizes(graph_of(model), shapes, sizes.get("batch"))
    found = products(Known(graph, infer(graph)))
    if not found:
        raise RefusedError(f"{title_of(model)} has no layer that is a plain matrix product", hint="nothing to measure")
    asked = [Product(one.inputs, one.outputs, count) for one in found for count in rows or (one.rows,)]
    times, refused = _measure(clock, asked, wanted, progress or silent)
    _write(target, bench.labels, [*before, *map(asdict, times)])
    return KernelMeasurement(title_of(model), bench.labels, times, target, (*refused, ALONE))


def _formats(names: Iterable[str]) -> list[Format]:
    for name in names:
        if name not in FORMATS:
            raise RefusedError(f"there are no 2:4 products in {name!r}", hint=f"give some of {', '.join(FORMATS)}")
    return [Format(name) for name in dict.fromkeys(names)]


def _measure(
    clock: Stopwatch, asked: Sequence[Product], formats: Sequence[Format], progress: Progress
) -> tuple[tuple[KernelTime, ...], tuple[str, ...]]:
    """Times, and a remark for each format of which some were refused."""
    cases = [(form, one) for form in formats for one in sorted({*asked, *(_aligned(one, form) for one in asked)})]
    times: list[KernelTime] = []
    refused: dict[Format, list[str]] = {}
    for done, (form, one) in enumerate(cases):
        progress("products", done, len(cases))
        try:
            times.append(_timed(clock, form, one))
        except _REFUSALS as error:
            refused.setdefault(form, []).append(error.message)
    progress("products", len(cases), len(cases))
    every = Counter(form for form, _ in cases)
    remarks = tuple(f"{form}: {len(some)} of {every[form]} left out: {some[0]}" for form, some in refused.items())
    if not times:
        raise RefusedError(f"nothing could be measured: {'; '.join(remarks)}", hint="give other --formats")
    return tuple(times), remarks


def _aligned(one: Product, form: Format) -> Product:
    """The next sizes that a sparse kernel takes: its own, if it takes those."""
    multiple = INPUTS[form]
    return Product(-(-one.inputs // multiple) * multiple, -(-one.outputs // OUTPUTS) * OUTPUTS, one.rows)


def _timed(clock: Stopwatch, form: Format, one: Product) -> KernelTime:
    sizes = (one.rows, one.inputs, one.outputs)
    dense = 1e6 * clock(*product(form, *sizes, sparse=False))
    sparse = None if one.inputs % 4 else 1e6 * clock(*product(form, *sizes, sparse=True))
    return KernelTime(form.value, *sizes, dense, sparse)


def _rows_of(table: Path) -> list[dict[str, Any]]:
    """The rows of a table that may be there."""
    if not table.exists():
        return []
    load_kernel_times(table)
    found: list[dict[str, Any]] = json.loads(table.read_text(encoding="utf-8"))["times"]
    return found


def _write(target: Path, labels: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """The last of rows for one product stays."""
    names = ("format", "inputs", "outputs", "rows")
    by_product = {tuple(row[name] for name in names): row for row in rows}
    document = _document(labels, [by_product[key] for key in sorted(by_product)])
    with write_atomically(target) as (temporary,):
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _document(labels: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**labels, "unit": "microseconds", "times": rows}
