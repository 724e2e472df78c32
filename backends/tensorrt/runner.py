"""Runs an engine on an NVIDIA GPU, and times it. Device memory is torch's, which is loaded when a runner is opened."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.backends.tensorrt import messages
from secateur.backends.tensorrt.errors import BackendUnavailable, TensorRTError
from secateur.backends.tensorrt.messages import Recorder
from secateur.backends.tensorrt.shim import Choice, Trt, load
from secateur.backends.torch import dtypes
from secateur.backends.torch.lazy import load as load_torch
from secateur.ir import DataType, Graph
from secateur.ir.errors import DataError, ModelError
from secateur.ir.runner import Runner, RunnerFactory

_CLOCKS = "clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu"
_TYPES: Mapping[str, DataType] = {
    "FLOAT": DataType.FLOAT32,
    "HALF": DataType.FLOAT16,
    "BF16": DataType.BFLOAT16,
    "FP8": DataType.FLOAT8E4M3FN,
    "INT8": DataType.INT8,
    "UINT8": DataType.UINT8,
    "INT32": DataType.INT32,
    "INT64": DataType.INT64,
    "BOOL": DataType.BOOL,
}


@dataclass(frozen=True)
class EngineTime:
    """Seconds of one run on `device`: median of `repeats`, and the quartiles around it.

    `graph` says whether a CUDA graph was replayed; without one, launches are in the time. `clocks` is what the driver
    says of the device's clocks right after (MHz by name, and °C); {} where it says nothing.
    """

    median: float
    quartiles: tuple[float, float]
    repeats: int
    graph: bool
    device: str
    clocks: Mapping[str, float]


@dataclass(frozen=True)
class _Port:
    name: str
    dtype: DataType
    shape: tuple[int, ...]
    on_host: bool


class EngineRunner:
    """An engine that is ready to run: `with EngineRunner(path) as runner`. Its interface is that of other runners.

    It was written against the interfaces of `tensorrt` 10 and later and `tensorrt_rtx`, and tested without a GPU alone.
    """

    def __init__(
        self, engine: str | os.PathLike[str], *, flavor: Choice = "auto", profile: int = 0, device: str = "cuda:0"
    ) -> None:
        """Notes what to open; `with` opens it.

        Args:
            engine: a file that `build` wrote.
            flavor: the package that built it.
            profile: which of the engine's optimization profiles holds the sizes that will be fed.
            device: one of torch's CUDA devices.
        """
        self._path = Path(engine)
        self._flavor = flavor
        self._profile = profile
        self._device = device
        self._inputs: dict[str, _Port] = {}
        self._outputs: dict[str, _Port] = {}
        self._trt: Trt | None = None
        self._torch: Any = None
        self._stream: Any = None
        self._held: tuple[Any, ...] = ()
        self._context: Any = None
        self._recorder = Recorder()

    @property
    def input_names(self) -> tuple[str, ...]:
        """What is to be fed; known once it is open."""
        return tuple(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What is fetched."""
        return tuple(self._outputs)

    def __enter__(self) -> EngineRunner:
        """Loads the engine onto the device.

        Raises:
            ModelError: there is no such file.
            BackendUnavailable: no TensorRT, no torch with CUDA, or no device.
            TensorRTError: the engine is of another version, or for another device.
        """
        if not self._path.is_file():
            raise ModelError(f"{self._path}: no such file", hint="build the engine first")
        self._trt = load(self._flavor)
        self._torch = torch = load_torch()
        if not torch.cuda.is_available():
            raise BackendUnavailable(
                f"{self._path} cannot run here: torch {torch.__version__} finds no CUDA device",
                hint="engines run on NVIDIA GPUs alone; compare the ONNX model instead, which onnxruntime runs",
            )
        module = self._trt.module
        logger = self._trt.implement("ILogger", log=self._recorder.log)
        runtime = module.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(self._path.read_bytes())
        if engine is None:
            raise self._failure("cannot be loaded")
        self._context = engine.create_execution_context()
        if self._context is None:
            raise self._failure("cannot be made ready to run")
        # Loggers, runtimes and engines must outlive what was made with them.
        self._held = (logger, runtime, engine)
        self._stream = torch.cuda.Stream(self._device)
        if self._profile and not self._context.set_optimization_profile_async(self._profile, self._stream.cuda_stream):
            raise self._failure(f"has no optimization profile {self._profile}")
        self._read_ports(engine, module)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context, self._held, self._stream = None, (), None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs to named outputs.

        Raises:
            DataError: an array is missing, too many, of another dtype, or of a size that the profile does not have.
            TensorRTError: the run failed, or an output's size depends on data.
        """
        results, _ = self._bind(feeds)
        self._enqueue()
        self._stream.synchronize()
        return {name: _from_device(tensor, self._outputs[name].dtype) for name, tensor in results.items()}

    def time(self, feeds: Mapping[str, NDArray[Any]], *, repeats: int = 50, warmup: int = 10) -> EngineTime:
        """How long a run takes on the device, nothing copied: a replayed CUDA graph, if one can be had.

        Raises:
            DataError, TensorRTError: as `run`.
        """
        torch = self._torch
        held = self._bind(feeds)
        for _ in range(warmup):
            self._enqueue()
        self._stream.synchronize()
        graph = self._captured()
        seconds = []
        for _ in range(repeats):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.cuda.stream(self._stream):
                start.record(self._stream)
                if graph is None:
                    self._enqueue()
                else:
                    graph.replay()
                stop.record(self._stream)
            stop.synchronize()
            seconds.append(start.elapsed_time(stop) / 1e3)
        del held  # memory that the context was given must live until here
        low, median, high = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
        return EngineTime(
            median=median,
            quartiles=(low, high),
            repeats=repeats,
            graph=graph is not None,
            device=torch.cuda.get_device_name(self._device),
            clocks=_clocks(),
        )

    def _read_ports(self, engine: Any, module: Any) -> None:
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            word = engine.get_tensor_dtype(name).name
            if word not in _TYPES:
                raise TensorRTError(f"{self._path}: {name!r} has type {word}, which cannot be fed from here")
            on_host = engine.get_tensor_location(name) == module.TensorLocation.HOST
            port = _Port(name, _TYPES[word], tuple(engine.get_tensor_shape(name)), on_host)
            is_input = engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
            (self._inputs if is_input else self._outputs)[name] = port

    def _bind(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], Sequence[Any]]:
        """Hands arrays to the context; returns the tensors of outputs and of inputs, which must live on."""
        if wrong := feeds.keys() ^ self._inputs.keys():
            raise DataError(f"{self._path}: the feeds differ from the inputs in {', '.join(sorted(wrong))}")
        torch, context = self._torch, self._context
        fed = []
        for name, array in feeds.items():
            port = self._inputs[name]
            if array.dtype != port.dtype.numpy:
                raise DataError(f"input {name!r} takes {port.dtype.short}, got {array.dtype}")
            tensor = (
                dtypes.from_array(_held(array, port.dtype)).to("cpu" if port.on_host else self._device).contiguous()
            )
            if not context.set_input_shape(name, tuple(array.shape)):
                raise DataError(
                    f"input {name!r}: the engine does not take {list(array.shape)}; it is {list(port.shape)}, within "
                    f"the range of profile {self._profile}",
                    hint="build it for a range that holds this size",
                )
            context.set_tensor_address(name, tensor.data_ptr())
            fed.append(tensor)
        results = {}
        for name, port in self._outputs.items():
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise TensorRTError(
                    f"{self._path}: the size of output {name!r} depends on data, which is not supported"
                )
            held = DataType.UINT8 if dtypes.is_carried(port.dtype) else port.dtype
            results[name] = torch.empty(shape, dtype=dtypes.torch_dtype(held), device=self._device)
            context.set_tensor_address(name, results[name].data_ptr())
        torch.cuda.synchronize(self._device)  # copies ran on another stream
        return results, fed

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise self._failure("failed to run")

    def _captured(self) -> Any:
        """A CUDA graph of one run; None where the engine's kernels cannot be captured."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=self._stream):
                self._enqueue()
        except (RuntimeError, TensorRTError):
            self._torch.cuda.synchronize(self._device)
            return None
        return graph

    def _failure(self, what: str) -> TensorRTError:
        reasons = "; ".join(messages.errors(self._recorder.rows)) or "no reason given"
        return TensorRTError(f"{self._path} {what}: {reasons}", log=self._recorder.rows)


@dataclass(frozen=True)
class EngineInstead:
    """A runner factory that runs one graph by its engine and all others by another runner, so that both compare."""

    graph: Graph
    engine: Path
    otherwise: RunnerFactory

    def __call__(
        self, graph: Graph, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
    ) -> AbstractContextManager[Runner]:
        """See `secateur.ir.runner.RunnerFactory`.

        Raises:
            TensorRTError: values inside the engine are asked for, which it does not show.
        """
        if graph is not self.graph:
            return self.otherwise(graph, inputs=inputs, outputs=outputs)
        ends = ([one.name for one in graph.inputs if one.const is None], [one.name for one in graph.outputs])
        if any(asked is not None and set(asked) - set(own) for asked, own in zip((inputs, outputs), ends, strict=True)):
            raise TensorRTError(f"{self.engine} runs as a whole: values inside it cannot be fed or fetched")
        return EngineRunner(self.engine)


def _held(array: NDArray[Any], dtype: DataType) -> NDArray[Any]:
    """What lies in the device's memory: of types that torch carries by wider ones, the bytes themselves."""
    return array.view(np.uint8) if dtypes.is_carried(dtype) else array


def _from_device(tensor: Any, dtype: DataType) -> NDArray[Any]:
    if dtypes.is_carried(dtype):
        return dtypes.to_array(tensor).view(dtype.numpy)
    return dtypes.to_array(tensor, dtype)


def _clocks() -> dict[str, float]:
    command = ["nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return dict(zip(_CLOCKS.split(","), map(float, answer.splitlines()[0].split(",")), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}
