"""Runs a graph, or any part of it, on the CPU with onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from secateur.backends.feeds import check, matched
from secateur.backends.onnxruntime_errors import reported
from secateur.backends.onnxruntime_values import array_from_value, is_exotic, value_from_array, value_from_tensor
from secateur.ir import DataType, Graph, TensorType
from secateur.ir.errors import BackendError
from secateur.ir.extract import extract, forget_sizes
from secateur.ir.schemes import schemes

_FAILURES = (
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)

_FEW = 8
"""With more outputs than these, onnxruntime takes memory piece by piece."""


class OnnxRuntimeRunner:
    """A graph, or the part of it from `inputs` to `outputs`, ready to run: `with OnnxRuntimeRunner(graph) as runner`.

    Weights are handed over where they lie, whatever their size: no protobuf of more than 2 GiB is made, nothing is
    written. onnxruntime keeps a copy of its own, packed for its kernels; pages of a mapped file that were read for it
    are the system's to take back.

    Runs are repeatable: ops one after the other, deterministic kernels, a fixed number of threads within an op, which
    sleep while there is nothing to do (so that two runners do not disturb each other's timing).
    """

    def __init__(
        self,
        graph: Graph,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        threads: int | None = None,
        optimize: bool = True,
    ) -> None:
        """Cuts the part out of the graph; `with` prepares it.

        Args:
            graph: a whole model; it is not changed.
            inputs: names of values to be fed; None for the graph's own inputs.
            outputs: names of any values, to be fetched; None for the graph's own outputs.
            threads: within an op; None leaves the number to onnxruntime (one for each core).
            optimize: let onnxruntime fuse and fold ops. False computes every value as the graph says, op by op.

        Raises:
            GraphError: a name is unknown, or the inputs do not suffice for the outputs.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        names = [value.name for value in graph.outputs] if outputs is None else list(outputs)
        self._part = _prepared(extract(graph, inputs, names), graph)
        self._titles = _named(self._part)
        self._threads = threads
        self._optimize = optimize
        self._onnxruntime: Any = None
        self._failures: tuple[type[Exception], ...] = ()
        self._session: Any = None
        self._weights: list[Any] = []
        self._is_exotic = False

    @property
    def input_names(self) -> tuple[str, ...]:
        """What is to be fed; inputs with a default may be left out."""
        return tuple(value.name for value in self._part.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What is fetched, in this order."""
        return tuple(value.name for value in self._part.outputs)

    def __enter__(self) -> OnnxRuntimeRunner:
        """Loads onnxruntime and prepares the session.

        Where the graph does not know the type of a value at which it is cut, that waits for the first run.

        Raises:
            BackendError: onnxruntime is not installed, or refuses the graph.
        """
        self._onnxruntime, self._failures = _load()
        if all(value.type is not None for value in self._part.inputs):
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session, self._weights, self._onnxruntime = None, [], None

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs to named outputs.

        Args:
            feeds: one array for each input, of exactly its dtype (`secateur.calib.checks` casts what may be cast).

        Raises:
            DataError: an array is missing, unknown, or of another dtype or shape than its input.
            BackendError: an op fails.
        """
        if self._onnxruntime is None:
            raise RuntimeError("a runner runs inside `with` only")
        for array, value in matched(feeds, self._part.inputs):
            check(array, value)
        if self._session is None:
            for value in self._part.inputs:
                if value.type is None:
                    array = feeds[value.name]
                    value.type = TensorType(DataType.of(array.dtype), (None,) * array.ndim)
            self._open()
        with self._reported("run"):
            return self._fetch(feeds)

    def _fetch(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = list(self.output_names)
        if not names:
            return {}
        if not self._is_exotic:
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        values = {name: value_from_array(self._onnxruntime, array) for name, array in feeds.items()}
        fetched = self._session.run_with_ort_values(names, values)
        return {name: array_from_value(value, name) for name, value in zip(names, fetched, strict=True)}

    def _open(self) -> None:
        from secateur.ir.onnx_write import detached

        onnxruntime = self._onnxruntime
        if not self._part.outputs:
            return  # onnxruntime refuses a graph without outputs
        model, tensors = detached(self._part)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # everything that is an error is raised too
        options.intra_op_num_threads = self._threads or 0
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        # A pattern is one block for all that a run makes, of which what is fetched cannot be a part.
        options.enable_mem_pattern = len(self._part.outputs) <= _FEW
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It takes codes of float8 for integers: fuses them into kernels that do not exist, or leaves a Relu before
        # them out, as uint8 would need none, and is wrong without a word (1.31).
        is_float8 = any(scheme.dtype.short.startswith("f8") for _, scheme in schemes(self._part))
        if is_float8 or not self._optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with self._reported("prepare"):
            self._weights = [value_from_tensor(onnxruntime, tensor) for tensor in tensors.values()]
            if tensors:
                options.add_external_initializers(list(tensors), self._weights)
            self._session = onnxruntime.InferenceSession(
                model, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        arguments = (*self._session.get_inputs(), *self._session.get_outputs())
        self._is_exotic = any(is_exotic(argument.type) for argument in arguments)

    def _reported(self, doing: str) -> Any:
        hint = "check the op's inputs and attributes" if doing == "prepare" else "check that the shapes fed fit the op"
        return reported(self._failures, doing, self._titles, hint)


def _load() -> tuple[Any, tuple[type[Exception], ...]]:
    """The module, and the exceptions that it raises (which have no common base)."""
    try:
        module = importlib.import_module("onnxruntime")
        raised = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    except ImportError as error:
        raise BackendError(
            f"onnxruntime is needed to run a model, and cannot be loaded: {error}", hint="pip install 'secateur[run]'"
        ) from error
    return module, (RuntimeError, ValueError, *(getattr(raised, name) for name in _FAILURES if hasattr(raised, name)))


def _prepared(part: Graph, whole: Graph) -> Graph:
    """A part that nobody else holds, made fit to run."""
    forget_sizes(part, whole)
    for value in part.outputs:
        if isinstance(value.type, TensorType) and value not in part.inputs and value.const is None:
            value.type = TensorType(value.type.dtype)  # likewise: onnxruntime infers the sizes
    for value in part.constants():
        value.node = None  # an initializer can be handed over in place, a Constant node can't
    return part


def _named(part: Graph) -> dict[str, str]:
    """Gives every op a name, so that onnxruntime's errors can say which it is; how to call it, by what they say."""
    titles: dict[str, str] = {}
    for op in part.ops():
        title = op.title
        op.name = op.name or next((value.name for value in op.outputs if value is not None), "")
        titles[op.name] = title
        if op.domain:
            titles.setdefault(f"{op.domain}:{op.op_type}", title)
    return titles
