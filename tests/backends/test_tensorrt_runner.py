"""The engine runner, without a GPU: clear refusals, and the calls that it makes, on a package that only looks real."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import tensorrt_models as models
from helpers.tensorrt_fake import Full, namespace

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.tensorrt import BackendUnavailable, BuildOptions, TensorRTError, build
from secateur.backends.tensorrt import runner as runners
from secateur.backends.tensorrt.runner import EngineInstead, EngineRunner
from secateur.ir.errors import DataError, ModelError

torch = pytest.importorskip("torch")


def test_no_engine(tmp_path):
    with pytest.raises(ModelError, match="no such file"), EngineRunner(tmp_path / "e"):
        pass


def test_no_device(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = models.save(tmp_path / "model.onnx", models.conv())
    build(path, tmp_path / "e", BuildOptions(flavor="tensorrt-rtx", optimization_level=0))
    with pytest.raises(BackendUnavailable, match="finds no CUDA device") as caught, EngineRunner(tmp_path / "e"):
        pass
    assert caught.value.exit_code == 3


class FakeContext:
    """y = 2 x, on memory that it is given by address; x holds at most four rows."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.runs = 0

    def set_optimization_profile_async(self, number, stream):
        return number < 2

    def set_input_shape(self, name, shape):
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        self.runs += 1
        size = int(np.prod(self.shape))
        x, y = (
            np.ctypeslib.as_array(ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float)), (size,))
            for name in "xy"
        )
        y[:] = 2 * x
        return True


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, context: FakeContext) -> None:
        self.context = context

    def create_execution_context(self):
        return self.context

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_dtype(self, name):
        return namespace(name="FLOAT")

    def get_tensor_location(self, name):
        return "device"

    def get_tensor_shape(self, name):
        return (-1, 3)

    def get_tensor_mode(self, name):
        return "in" if name == "x" else "out"


@pytest.fixture
def context(monkeypatch, tmp_path) -> FakeContext:
    """A device that is the CPU's memory, and an engine on it at `tmp_path / "e"`."""
    made = FakeContext()
    module = Full().module()
    module.TensorLocation = namespace(HOST="host")
    module.TensorIOMode = namespace(INPUT="in")
    blob = b"engine"
    module.Runtime = lambda logger: namespace(
        deserialize_cuda_engine=lambda data: FakeEngine(made) if data == blob else None
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    (tmp_path / "e").write_bytes(blob)
    stream = namespace(cuda_stream=0, synchronize=lambda: None)
    cuda = namespace(
        is_available=lambda: True,
        Stream=lambda device: stream,
        stream=lambda one: contextlib.nullcontext(),
        synchronize=lambda device: None,
        Event=lambda enable_timing: namespace(
            record=lambda stream: None, synchronize=lambda: None, elapsed_time=lambda other: 2.0
        ),
        CUDAGraph=lambda: namespace(replay=lambda: made.execute_async_v3(0)),
        graph=lambda graph, stream: contextlib.nullcontext(),
        get_device_name=lambda device: "a device that is none",
    )
    fake = types.SimpleNamespace(cuda=cuda, empty=torch.empty, __version__="0")
    monkeypatch.setattr(runners, "load_torch", lambda: fake)
    monkeypatch.setattr(runners, "_clocks", lambda: {"clocks.sm": 1000.0})
    return made


def x(rows: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)}


def test_runs_and_times(context, tmp_path):
    with EngineRunner(tmp_path / "e", flavor="tensorrt", device="cpu") as runner:
        assert (runner.input_names, runner.output_names) == (("x",), ("y",))
        for rows in (2, 4, 1):
            np.testing.assert_array_equal(runner.run(x(rows))["y"], 2 * x(rows)["x"])
        before = context.runs
        took = runner.time(x(), repeats=5, warmup=2)
    assert context.runs == before + 2 + 1 + 5
    assert (took.median, took.quartiles, took.repeats, took.graph) == (2e-3, (2e-3, 2e-3), 5, True)
    assert took.clocks == {"clocks.sm": 1000.0}


def test_feeds_that_do_not_fit(context, tmp_path):
    with EngineRunner(tmp_path / "e", flavor="tensorrt", device="cpu") as runner:
        with pytest.raises(DataError, match=r"does not take \[5, 3\]; it is \[-1, 3\]"):
            runner.run(x(5))
        with pytest.raises(DataError, match="differ from the inputs in x, z"):
            runner.run({"z": x()["x"]})
        with pytest.raises(DataError, match="takes f32, got float64"):
            runner.run({"x": x()["x"].astype(np.float64)})


def test_engines_that_cannot_be_opened(context, tmp_path):
    with pytest.raises(TensorRTError, match="no optimization profile 2"):
        EngineRunner(tmp_path / "e", flavor="tensorrt", profile=2).__enter__()
    (tmp_path / "e").write_bytes(b"of another version")
    with pytest.raises(TensorRTError, match="cannot be loaded"):
        EngineRunner(tmp_path / "e", flavor="tensorrt").__enter__()


def test_an_engine_stands_in_for_one_graph_alone(tmp_path):
    graph = sc.load(models.save(tmp_path / "model.onnx", models.conv(layers=2)))
    factory = EngineInstead(graph, Path("e"), OnnxRuntimeRunner)
    assert isinstance(factory(graph), EngineRunner)
    assert isinstance(factory(sc.load(tmp_path / "model.onnx")), OnnxRuntimeRunner)
    with pytest.raises(TensorRTError, match="runs as a whole"):
        factory(graph, outputs=["c0"])


def test_compare_asks_the_engine(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = models.save(tmp_path / "model.onnx", models.conv())
    (tmp_path / "e").write_bytes(b"an engine")
    data = {"x": np.zeros((1, 8, 16, 16), np.float32)}
    with pytest.raises(BackendUnavailable, match="finds no CUDA device"):
        sc.compare(path, path, data, engine=tmp_path / "e")


@pytest.mark.parametrize(("fake", "real"), [(FakeContext, "IExecutionContext"), (FakeEngine, "ICudaEngine")])
def test_what_is_faked_is_there(fake, real):
    """Every call that the runner makes is one that the real classes have."""
    module = pytest.importorskip("tensorrt_rtx")
    names = [name for name in vars(fake) if not name.startswith("_")]
    assert names
    assert [name for name in names if not hasattr(getattr(module, real), name)] == []
    assert hasattr(module.Runtime, "deserialize_cuda_engine")
    assert hasattr(module.TensorLocation, "HOST")
    assert hasattr(module.TensorIOMode, "INPUT")
    assert runners._TYPES.keys() <= set(dir(module.DataType))
