"""The stopwatch of engines, with a clock that is none: real engines, built once, and files that remember times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from helpers import tensorrt_models as models
from helpers.engine_clock import FakeGpu

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.tensorrt import BackendUnavailable, BuildOptions, BuildReport, TargetError
from secateur.backends.tensorrt import runner as runners
from secateur.backends.tensorrt import stopwatch as stopwatches
from secateur.backends.tensorrt.products import FORMATS, product
from secateur.backends.tensorrt.stopwatch import EngineStopwatch, cuda_device
from secateur.ir import DataType, Value
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, OutputError
from secateur.ir.rules.sparse_kernels import INPUTS
from secateur.ir.targets import Format

pytest.importorskip("tensorrt_rtx")
torch = pytest.importorskip("torch")

CHECKED = BuildOptions(flavor="tensorrt-rtx", sparse_weights=True, require_precision="as-quantized")
QUICK = BuildOptions(flavor="tensorrt-rtx", optimization_level=0)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BuildReport]]:
    """What was built."""
    made: list[BuildReport] = []
    build = stopwatches.build

    def spy(*arguments, **named):
        made.append(build(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(stopwatches, "build", spy)
    yield made


def matmul(number: float = 1.0) -> sc.Graph:
    """x [N, 8] times w [8, 4], whose output says nothing of itself."""
    graph = sc.Graph("one")
    weight = np.full((8, 4), number, np.float32)
    data = add_input(graph, "x", ("N", 8))
    graph.set_interface(outputs=[emit(graph, "MatMul", [data, add_constant(graph, "w", weight)]).output])
    return graph


def x(rows: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.ones((rows, 8), np.float32)}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("sizes", [(16, 64, 64), (7, 60, 50)])
@pytest.mark.parametrize("form", FORMATS)
def test_products_are_computed_as_they_say(form, sizes, sparse, tmp_path, reports):
    gpu = FakeGpu()
    clock = EngineStopwatch(CHECKED, tmp_path, gpu)
    assert clock(*product(form, *sizes, sparse=sparse)) == gpu.asked[0] * 1e-9
    [report] = reports
    narrow = form in (Format.INT8, Format.FP8)
    assert report.targets == ("8.9",)
    assert report.quantized_in_float == () and len(report.precision or ()) == narrow
    [weight] = report.weights
    aligned = sizes[1] % INPUTS[form] == 0
    assert (weight.format, weight.quantized, weight.aligned) == (form.value, narrow, aligned)
    assert (weight.is_sparse, weight.eligible) == (sparse, sparse and aligned)


@pytest.mark.parametrize("form", [Format.FP16, Format.INT8])
def test_products_are_products(form):
    graph, feeds = product(form, 4, 32, 8, sparse=True)
    graph.verify()
    weight = graph["weight"].const.numpy().astype(np.float64)
    assert ((weight.reshape(-1, 4, 8) != 0).sum(axis=1) <= 2).all()
    scale = 1.0 if form is Format.FP16 else float(np.float16(0.05)) ** 2
    with OnnxRuntimeRunner(graph) as runner:
        found = runner.run(feeds)["y"]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, feeds["x"].astype(np.float64) @ weight * scale, rtol=2e-2, atol=0.05)


def test_each_is_built_once(tmp_path, reports):
    gpu = FakeGpu()
    clock = EngineStopwatch(QUICK, tmp_path / "not" / "there", gpu)
    first = clock(matmul(), x())
    assert (clock(matmul(), x()), len(reports)) == (first, 1)
    assert EngineStopwatch(QUICK, tmp_path / "not" / "there", gpu)(matmul(), x()) == first and len(reports) == 1
    clock(matmul(), x(3))
    clock(matmul(2.0), x())
    replace(clock, options=replace(QUICK, optimization_level=1))(matmul(), x())
    assert len(reports) == len(gpu.asked) == 4
    assert all(report.profiles == () for report in reports)


def test_times_hold_for_one_device_and_version(tmp_path, reports, monkeypatch):
    def time(**changes: str) -> None:
        EngineStopwatch(QUICK, tmp_path, FakeGpu(**changes))(matmul(), x())

    time()
    time(name="NVIDIA L40S")
    time(capability="8.6")
    load = stopwatches.load
    monkeypatch.setattr(stopwatches, "load", lambda flavor: replace(load(flavor), version="99.0"))
    time()
    time()
    assert len(reports) == 4
    found = sorted(path.name for path in tmp_path.iterdir())
    version = load("tensorrt-rtx").version
    assert found == sorted(
        f"engines-{bench}.json"
        for bench in (
            f"NVIDIA-L4-8.9-tensorrt-rtx-{version}",
            f"NVIDIA-L40S-8.9-tensorrt-rtx-{version}",
            f"NVIDIA-L4-8.6-tensorrt-rtx-{version}",
            "NVIDIA-L4-8.9-tensorrt-rtx-99.0",
        )
    )


def test_sizes_are_those_of_the_feeds(tmp_path, reports):
    path = models.save(tmp_path / "conv.onnx", models.conv(batch="N"))
    feeds = {"x": np.zeros((3, 8, 16, 16), np.float32)}
    assert EngineStopwatch(QUICK, tmp_path, FakeGpu(seconds=0.5))(sc.load(path), feeds) == 0.5
    assert reports[0].layers[0].inputs[0].shape[0] == 3


def test_what_the_device_lacks_is_refused_by_name(tmp_path, reports):
    clock = EngineStopwatch(CHECKED, tmp_path, FakeGpu(capability="8.6"))
    with pytest.raises(TargetError, match=r"^graph 'fp8 4 x 32 x 8, dense' computes in float8 .* capability 8.6"):
        clock(*product(Format.FP8, 4, 32, 8, sparse=False))
    assert not reports and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("no JSON", "{"),
        ("expected schema 1, found None", "[]"),
        ("expected schema 1, found 2", {"schema": 2}),
        ("expected device 'NVIDIA L4', found 'another'", {"device": "another"}),
        ("expected positive seconds", {"seconds": {"digest": -1.0}}),
        ("expected positive seconds", {"seconds": [1.0]}),
        ("expected positive seconds", {"seconds": {"digest": "1"}}),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path, reports, said, change):
    clock = EngineStopwatch(QUICK, tmp_path, FakeGpu())
    path = tmp_path / f"engines-{clock.bench().name}.json"
    good = {"schema": 1, **clock.bench().labels, "seconds": {}}
    path.write_text(change if isinstance(change, str) else json.dumps({**good, **change}))
    with pytest.raises(DataError, match=said) as caught:
        clock(matmul(), x())
    assert str(path) in caught.value.message and "remove the file" in str(caught.value.hint)
    assert not reports


def test_a_folder_that_cannot_be_made(tmp_path, reports):
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, DataError)):
        EngineStopwatch(QUICK, tmp_path / "file" / "times", FakeGpu())(matmul(), x())
    assert not reports


def test_no_device_is_said_before_anything_is_built(tmp_path, reports, monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setattr(stopwatches, "load_torch", lambda: SimpleNamespace(cuda=cuda, __version__="0"))
    with pytest.raises(BackendUnavailable, match="finds no CUDA device") as caught:
        EngineStopwatch(QUICK, tmp_path)(matmul(), x())
    assert caught.value.exit_code == 3

    def missing() -> None:
        raise BackendError("torch is needed", hint="pip")

    monkeypatch.setattr(stopwatches, "load_torch", missing)
    with pytest.raises(BackendUnavailable, match="torch is needed"):
        EngineStopwatch(QUICK, tmp_path)(matmul(), x())
    assert not reports and not list(tmp_path.iterdir())


def test_a_device_that_torch_finds(monkeypatch, tmp_path):
    """Who is asked for what; the runner itself is tested with its own fake."""
    cuda = SimpleNamespace(
        is_available=lambda: True, get_device_name=lambda index: "a GPU", get_device_capability=lambda index: (12, 0)
    )
    asked = []

    class Runner:
        def __init__(self, engine, *, flavor):
            asked.append((engine, flavor))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            asked.append("closed")

        def time(self, feeds):
            asked.append(feeds)
            return SimpleNamespace(median=0.25)

    monkeypatch.setattr(stopwatches, "load_torch", lambda: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(stopwatches, "EngineRunner", Runner)
    device = cuda_device("tensorrt-rtx")
    assert (device.name, device.capability, device.time(tmp_path, {})) == ("a GPU", "12.0", 0.25)
    assert asked == [(tmp_path, "tensorrt-rtx"), {}, "closed"]


def test_float8_goes_to_the_device_as_it_is():
    from secateur.backends.torch import dtypes

    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16).T.view(ml_dtypes.float8_e4m3fn)
    tensor = dtypes.from_array(runners._held(numbers, DataType.FLOAT8E4M3FN))
    assert tensor.element_size() == 1
    back = runners._from_device(tensor, DataType.FLOAT8E4M3FN)
    assert back.dtype == numbers.dtype
    np.testing.assert_array_equal(back.view(np.uint8), numbers.view(np.uint8))


def test_outputs_get_their_types():
    sized = stopwatches._fixed(matmul(), x(5))
    assert [str(value.type) for value in sized.outputs] == ["f32[5, 4]"]
    assert all(isinstance(value, Value) and value.type is None for value in matmul().outputs)
