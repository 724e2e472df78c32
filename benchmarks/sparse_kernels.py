"""Dense against 2:4 matrix products on a CUDA device, through torch: cuSPARSELt's kernels and CUTLASS's.

    python benchmarks/sparse_kernels.py [--models smollm2 bert vit llama] [--rows 1 16 256 4096] [--formats fp16 int8]
    secateur advise --sparsity MODEL --target h100 --times benchmarks/results/sparse_kernels-NVIDIA-H100.json

Each product is [rows, inputs] x [inputs, outputs] at the layer shapes of real models. It runs in a CUDA graph of many
calls, so that no launch from Python is timed; what is given is the median of several replays, per call, after a
warm-up. Every sparse result is compared with the dense product of the same 2:4 weight before it is timed; one that
is off is an error, not a row. A library that refuses a shape gets a row without a time, and its own words.

These are times of torch's kernels, not of TensorRT's. Weights stay in the cache from call to call where they fit into
it, as they do in a small model, so the smallest layers are timed faster here than with a whole model around them.
Ends with 3 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from secateur.ir.files import write_atomically

RESULTS = Path(__file__).parent / "results"
NO_DEVICE = 3

SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "smollm2": ((576, 1536), (1536, 576), (576, 576), (576, 192)),
    "bert": ((768, 768), (768, 3072), (3072, 768)),
    "vit": ((768, 768), (768, 2304), (768, 3072), (3072, 768)),
    "llama": ((4096, 4096), (4096, 11008), (11008, 4096), (4096, 14336), (14336, 4096)),
}
"""(inputs, outputs): SmolLM2-135M, BERT-base, ViT-B/16 with queries, keys and values in one, 7B and 8B Llama."""
ROWS = (1, 8, 16, 64, 256, 1024, 4096)
FORMATS = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
LIBRARIES = ("cusparselt", "cutlass")
CALLS, WARM_UP, REPLAYS = 50, 3, 11

Run = Callable[[], Any]
Clock = Callable[[Run], float]
"""Microseconds of one call."""


@dataclass(frozen=True)
class Case:
    """One product."""

    format: str
    rows: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Row:
    """Microseconds of one product, dense and by one library of sparse kernels; None, and why, where it refuses."""

    format: str
    rows: int
    inputs: int
    outputs: int
    library: str
    dense: float
    sparse: float | None
    refused: str | None = None

    @property
    def gain(self) -> float | None:
        """How many times as fast 2:4 is."""
        return None if self.sparse is None else self.dense / self.sparse


def cases(models: Iterable[str], rows: Iterable[int], formats: Iterable[str]) -> list[Case]:
    """Each product once, whichever models have it."""
    layers = dict.fromkeys(layer for model in models for layer in SHAPES[model])
    return [Case(form, count, *layer) for form in formats for layer in layers for count in rows]


def measure(torch: Any, every: Sequence[Case], clock: Clock, device: str) -> Iterator[Row]:
    """Times products, dense and sparse.

    Raises:
        ArithmeticError: a sparse kernel gives another result than the dense one.
    """
    for case in every:
        data, weight = _operands(torch, case, device)
        dense = clock(_dense(torch, data, weight))
        expected = _exact(torch, data, weight)
        for library in LIBRARIES:
            try:
                run = _sparse(torch, library, data, weight)
                _check(torch, case, library, run()[: case.rows], expected)
                yield Row(**asdict(case), library=library, dense=dense, sparse=clock(run))
            except (RuntimeError, NotImplementedError, ValueError) as error:
                said = str(error).strip().partition("\n")[0]
                yield Row(**asdict(case), library=library, dense=dense, sparse=None, refused=said)


def _operands(torch: Any, case: Case, device: str) -> tuple[Any, Any]:
    """[rows, inputs] and a 2:4 weight [outputs, inputs], the same ones every time."""
    random = torch.Generator().manual_seed(0)
    dtype = getattr(torch, FORMATS[case.format])

    def drawn(*shape: int) -> Any:
        if dtype == torch.int8:
            return torch.randint(-8, 8, shape, generator=random, dtype=torch.int8).to(device)
        return torch.randn(shape, generator=random).to(dtype).to(device)

    weight = drawn(case.outputs, case.inputs)
    groups = weight.float().abs().reshape(case.outputs, -1, 4)
    mask = torch.zeros_like(groups).scatter_(-1, groups.topk(2, dim=-1).indices, 1.0)
    return drawn(case.rows, case.inputs), weight * mask.reshape(weight.shape).to(dtype)


def _padded(torch: Any, data: Any, least: int) -> Any:
    """Rows of zeros below, as the libraries would add them, so that adding them is not timed: multiples of 16."""
    rows = max(least, -(-data.shape[0] // 16) * 16)
    return torch.nn.functional.pad(data, (0, 0, 0, rows - data.shape[0]))


def _dense(torch: Any, data: Any, weight: Any) -> Run:
    if data.dtype != torch.int8:
        return lambda: torch.nn.functional.linear(data, weight)
    # cuBLAS takes int8 with more than 16 rows only.
    padded = _padded(torch, data, 32)
    return lambda: torch._int_mm(padded, weight.t())


def _exact(torch: Any, data: Any, weight: Any) -> Any:
    return data.double() @ weight.double().t()


def _sparse(torch: Any, library: str, data: Any, weight: Any) -> Run:
    kinds = {
        "cusparselt": "SparseSemiStructuredTensorCUSPARSELT",
        "cutlass": "SparseSemiStructuredTensorCUTLASS",
    }
    packed, padded = getattr(torch.sparse, kinds[library]).from_dense(weight), _padded(torch, data, 16)
    return lambda: torch.nn.functional.linear(padded, packed)


def _check(torch: Any, case: Case, library: str, made: Any, expected: Any) -> None:
    if made.dtype == torch.int8:
        # Results of int8 that come as int8 overflow, and some kernels wrap around where others stop at the limits.
        wraps = (made.long() % 256 == expected.long() % 256).all()
        good = bool(wraps) or bool((made.double() == expected.clamp(-128, 127)).all())
    else:
        good = bool((made.double() - expected).abs().max() <= 2e-2 * expected.abs().max())
    if not good:
        raise ArithmeticError(f"{library} gives a wrong product for {case}")


def graph_clock(torch: Any) -> Clock:
    """Times calls in a CUDA graph by events; the median of several replays."""

    def clock(run: Run) -> float:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                run()
        graph.replay()
        times = []
        for _ in range(REPLAYS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(1e3 * start.elapsed_time(end) / CALLS)
        return statistics.median(times)

    return clock


def save(rows: Sequence[Row], device: str, versions: dict[str, Any], path: Path) -> None:
    """Writes what `secateur.ir.kernel_times.load_kernel_times` reads."""
    document = {"device": device, **versions, "unit": "microseconds", "times": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as (temporary,):
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show(rows: Sequence[Row], device: str) -> None:
    """One line for each product and library."""
    table = Table("format", "rows", "inputs", "outputs", "library", "dense us", "2:4 us", "gain", title=device)
    for row in rows:
        sparse = row.refused or "-" if row.sparse is None else f"{row.sparse:.2f}"
        gain = "-" if row.gain is None else f"{row.gain:.2f}"
        sizes = (str(row.rows), str(row.inputs), str(row.outputs))
        table.add_row(row.format, *sizes, row.library, f"{row.dense:.2f}", sparse, gain)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, shows and saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--formats", nargs="+", choices=sorted(FORMATS), default=sorted(FORMATS))
    parser.add_argument("--output", type=Path, help="results/sparse_kernels-<device>.json by default")
    given = parser.parse_args(arguments)
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        sys.stderr.write("no CUDA device: sparse kernels can be timed on one only\n")
        return NO_DEVICE
    device = torch.cuda.get_device_name()
    every = cases(given.models, given.rows, given.formats)
    rows = list(measure(torch, every, graph_clock(torch), "cuda"))
    versions = {
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cusparselt": torch.backends.cusparselt.version(),
    }
    path = given.output or RESULTS / f"sparse_kernels-{re.sub(r'[^A-Za-z0-9]+', '-', device)}.json"
    save(rows, device, versions, path)
    show(rows, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
