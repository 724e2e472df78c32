"""How long graphs take as engines on this machine's GPU: a stopwatch, which remembers what it timed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from secateur.backends.tensorrt.engine import build
from secateur.backends.tensorrt.errors import BackendUnavailable, TensorRTError
from secateur.backends.tensorrt.kept_times import KeptTimes
from secateur.backends.tensorrt.options import BuildOptions
from secateur.backends.tensorrt.runner import EngineRunner
from secateur.backends.tensorrt.shim import Choice, Trt, load
from secateur.backends.torch.lazy import load as load_torch
from secateur.ir import Graph
from secateur.ir.errors import BackendError
from secateur.ir.measured_times import prepare, times_folder
from secateur.ir.onnx_shapes import infer
from secateur.ir.runner import Feeds
from secateur.ir.sizes import with_sizes
from secateur.ir.text_print import print_graph


@dataclass(frozen=True)
class Device:
    """A GPU: its name, its compute capability ("8.9"), and what gives the seconds of one run of an engine on it."""

    name: str
    capability: str
    time: Callable[[Path, Feeds], float]


def cuda_device(flavor: Choice = "auto") -> Device:
    """The first CUDA device that torch finds; engines on it are timed by `EngineRunner.time`, whose median counts.

    Raises:
        BackendUnavailable: there is no torch, or no device.
    """
    try:
        torch = load_torch()
    except BackendError as error:
        raise BackendUnavailable(f"no GPU can be reached: {error.message}", hint=error.hint) from error
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            f"nothing can be timed on a GPU here: torch {torch.__version__} finds no CUDA device",
            hint="run this where the engines will run",
        )

    def time(engine: Path, feeds: Feeds) -> float:
        with EngineRunner(engine, flavor=flavor) as runner:
            return runner.time(feeds).median

    capability = ".".join(map(str, torch.cuda.get_device_capability(0)))
    return Device(torch.cuda.get_device_name(0), capability, time)


@dataclass(frozen=True)
class Bench:
    """What times hold for: one device, and one version of one package."""

    device: Device
    trt: Trt

    @property
    def labels(self) -> dict[str, str]:
        """The same in words."""
        return {
            "device": self.device.name,
            "capability": self.device.capability,
            "package": self.trt.flavor,
            "version": self.trt.version,
        }

    @property
    def name(self) -> str:
        """The same as one word, for names of files."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(self.labels.values()))


@dataclass(frozen=True)
class EngineStopwatch:
    """Times a graph as an engine for the shapes of its feeds (`secateur.ir.runner.Stopwatch`).

    Times are kept below `folder` (None: `secateur.ir.measured_times.times_folder`): what was timed before on the same
    device, by the same version, is looked up. `device` is asked before anything is built.
    """

    options: BuildOptions = field(default_factory=BuildOptions)
    folder: Path | None = None
    device: Callable[[Choice], Device] = cuda_device

    def bench(self) -> Bench:
        """What is timed on.

        Raises:
            BackendUnavailable: no GPU, or no TensorRT.
        """
        device = self.device(self.options.flavor)
        return Bench(device, load(self.options.flavor))

    def __call__(self, graph: Graph, feeds: Feeds) -> float:
        """Seconds of one run; the median of many.

        Raises:
            BackendUnavailable: no GPU, or no TensorRT.
            TensorRTError: as `secateur.backends.tensorrt.build` has it, or the engine does not run.
            DataError: the feeds do not fit, or the file of times cannot be used.
            OutputError: the file of times cannot be written.
        """
        bench = self.bench()
        sized, options = _fixed(graph, feeds), _for_device(self.options, bench)
        kept = KeptTimes((self.folder or times_folder()) / f"engines-{bench.name}.json", bench.labels)
        digest = _digest(sized, feeds, options)
        found = kept.read().get(digest)
        if found is None:
            prepare(kept.path)
            found = _timed(sized, feeds, options, bench.device)
            kept.keep(digest, found)
        return found


def _fixed(graph: Graph, feeds: Feeds) -> Graph:
    """A copy for these feeds alone, whose outputs say their types: TensorRT wants to be told."""
    sized = with_sizes(graph, {name: array.shape for name, array in feeds.items()})
    types = infer(sized)
    for value in sized.outputs:
        value.type = types.get(value, value.type)
    return sized


def _for_device(options: BuildOptions, bench: Bench) -> BuildOptions:
    """Names the device to packages that build for others, too, so that they refuse what it has no hardware for."""
    capability = bench.device.capability
    if options.compute_capabilities or capability not in bench.trt.compute_capabilities:
        return options
    return replace(options, compute_capabilities=(capability,))


def _digest(graph: Graph, feeds: Feeds, options: BuildOptions) -> str:
    """Stands for all that an engine is made of: ops, numbers of constants, sizes, options."""
    fed = {name: [str(array.dtype), *array.shape] for name, array in feeds.items()}
    parts = [print_graph(graph, notes=False), fed, options.to_json(), options.compute_capabilities]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _timed(graph: Graph, feeds: Feeds, options: BuildOptions, device: Device) -> float:
    with TemporaryDirectory(prefix="secateur-") as folder:
        path, engine = Path(folder) / "model.onnx", Path(folder) / "engine"
        graph.save(path)
        try:
            build(path, engine, options)
            return device.time(engine, feeds)
        except TensorRTError as error:
            # Whoever reads it knows the graph, not the files that it was in for a moment.
            error.message = error.message.replace(str(path), graph.title).replace(str(engine), graph.title)
            raise
