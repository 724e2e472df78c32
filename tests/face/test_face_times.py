"""`secateur times` and what reads its tables; engines are real, the GPU is not."""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.engine_clock import FakeGpu
from helpers.face_models import Cli

import secateur as sc
from secateur import measuring
from secateur.backends import latency
from secateur.backends.tensorrt.stopwatch import EngineStopwatch
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import BackendError, DataError, OutputError, RefusedError
from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.known_targets import find_target
from secateur.ir.measured_times import newest_kernel_times
from secateur.ir.targets import Format
from secateur.running import stopwatch_of

pytest.importorskip("tensorrt_rtx")


def layers(*sizes: int) -> sc.Graph:
    """Products in a row, the batch open."""
    graph, random = sc.Graph("layers"), np.random.default_rng(0)
    value = add_input(graph, "x", ("N", sizes[0]))
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        weight = add_constant(graph, f"w{index}", random.standard_normal((inputs, outputs), np.float32))
        value = emit(graph, "MatMul", [value, weight]).output
        value = emit(graph, "Relu", [value]).output if index + 2 < len(sizes) else value
    graph.set_interface(outputs=[value])
    return graph


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own."""
    monkeypatch.setenv("SECATEUR_TIMES", str(tmp_path / "times"))
    return tmp_path / "times"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """What the command line finds, too."""
    made = FakeGpu()
    monkeypatch.setattr(measuring, "EngineStopwatch", partial(EngineStopwatch, device=made))
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    layers(32, 18).save(tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def test_a_table_is_measured_and_read(path: Path, gpu: FakeGpu, folder: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = sc.measure_kernels(path, ["fp16", "int8"], batch=4, progress=lambda *step: told.append(step))
    assert told[0] == ("products", 0, 4) and told[-1] == ("products", 4, 4)
    assert {(one.format, one.rows, one.inputs, one.outputs, one.is_aligned) for one in found.times} == {
        (form, 4, 32, outputs, outputs == 24) for form in ("fp16", "int8") for outputs in (18, 24)
    }
    assert len(gpu.asked) == 8
    labels = {key: found.to_json()[key] for key in ("device", "capability", "package")}
    assert labels == {"device": "NVIDIA L4", "capability": "8.9", "package": found.labels["package"]}
    [table] = folder.glob("kernels-NVIDIA-L4-8.9-*.json")
    assert table == found.file
    times = load_kernel_times(table, find_target("l4"))
    one = next(one for one in found.times if (one.format, one.outputs) == ("int8", 24))
    assert times.seconds(Format.INT8, 4, 32, 24) == pytest.approx((one.dense / 1e6, (one.sparse or 0) / 1e6))


def test_nothing_is_measured_twice(path: Path, gpu: FakeGpu, tmp_path: Path) -> None:
    first = sc.measure_kernels(path, ["fp16"])
    before = len(gpu.asked)
    assert sc.measure_kernels(path, ["fp16"]) == first and len(gpu.asked) == before
    sc.measure_kernels(layers(32, 16), ["fp16"], [1, 8])
    assert len(gpu.asked) == before + 4
    # The table of the machine holds both, a file that is asked for what was asked for.
    assert len(load_kernel_times(first.file).times) == 3
    again = sc.measure_kernels(layers(32, 16), ["fp16"], [1, 8], output=tmp_path / "own.json")
    assert len(gpu.asked) == before + 4
    assert list(load_kernel_times(again.file).times) == [(Format.FP16, 32, 16)]


def test_what_was_timed_before_an_interrupt_stays(gpu: FakeGpu, path: Path, folder: Path) -> None:
    def stop(description: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sc.measure_kernels(path, ["fp16"], progress=stop)
    assert len(gpu.asked) == 2 and [one.name[:8] for one in folder.iterdir()] == ["engines-"]
    sc.measure_kernels(path, ["fp16"])
    assert len(gpu.asked) == 4


def test_inputs_that_no_pattern_fits_have_no_sparse_time(gpu: FakeGpu, tmp_path: Path) -> None:
    found = sc.measure_kernels(layers(30, 8), ["fp16"], output=tmp_path / "t.json")
    assert [(one.inputs, one.sparse is None) for one in found.times] == [(30, True), (32, False)]
    assert list(load_kernel_times(tmp_path / "t.json").times) == [(Format.FP16, 32, 8)]


def test_what_the_device_lacks_is_left_out(path: Path, gpu: FakeGpu) -> None:
    gpu.capability = "8.6"
    found = sc.measure_kernels(layers(32, 8), ["fp8", "fp16"])
    assert {one.format for one in found.times} == {"fp16"}
    assert found.remarks[0].startswith("fp8: 1 of 1 left out: graph 'fp8 1 x 32 x 8, dense' computes in float8")
    with pytest.raises(RefusedError, match=r"nothing could be measured: fp8: 1 of 1 left out"):
        sc.measure_kernels(layers(32, 8), ["fp8"])


def test_the_command(cli: Cli, path: Path, gpu: FakeGpu) -> None:
    ran = cli("times", path, "--formats", "fp16", "--rows", "2,4")
    assert ran.code == 0 and "one.onnx on NVIDIA L4 (8.9), tensorrt" in ran.out and "wrote" in ran.err
    found = cli("times", path, "--formats", "fp16", "--rows", 2, "--rows", 4, "--json").json
    assert [(one["rows"], one["outputs"]) for one in found["times"]] == [
        (rows, outputs) for outputs in (18, 24) for rows in (2, 4)
    ]
    assert found["model"] == "one.onnx" and len(gpu.asked) == 8
    said = cli("advise", "--sparsity", path, "--target", "l4", "--batch", 2, "--times", "measured")
    assert said.code == 0 and "1 of 1 layers were measured, on NVIDIA L4" in " ".join(said.out.split())
    advice = sc.advise_sparsity(path, "l4", batch=4, times="measured")
    assert advice.measured_on == "NVIDIA L4" and {one.bound for one in advice.found.layers} == {"measured"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--rows", "many"), 2, "expected numbers of rows"),
        (("--rows", "0"), 1, "rows must be at least 1"),
        (("--formats", "fp12"), 1, "no 2:4 products in 'fp12'"),
        (("--shape", "y=1x32"), 1, "no input 'y'"),
        (("--output", "no/such/folder.json"), 1, "no/such is not a folder"),
    ],
)
def test_mistakes_are_named(
    cli: Cli, path: Path, gpu: FakeGpu, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = cli("times", path, *arguments)
    assert ran.code == code and said in ran.err and "hint:" in ran.err and not ran.out and not gpu.asked


def test_a_model_without_products(gpu: FakeGpu) -> None:
    graph = sc.Graph("none")
    graph.set_interface(outputs=[emit(graph, "Relu", [add_input(graph, "x", (2, 3))]).output])
    with pytest.raises(RefusedError, match="no layer that is a plain matrix product"):
        sc.measure_kernels(graph)


def test_no_gpu(cli: Cli, path: Path, calib: Path, tmp_path: Path, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    ran = cli("times", path)
    assert ran.code == 3 and "finds no CUDA device" in ran.err and not ran.out
    recipe, data = "prune{budget=latency:0.7}", tmp_path / "data.npz"
    np.savez(data, x=np.ones((4, 32), np.float32))
    asked = ("--recipe", recipe, "--data", data, "--timer", "tensorrt", "-o", tmp_path / "small.onnx")
    ran = cli("compress", path, *asked)
    assert ran.code == 3 and "finds no CUDA device" in ran.err
    assert not folder.exists() and not (tmp_path / "small.onnx").exists()


def test_a_broken_table_is_named(path: Path, gpu: FakeGpu, folder: Path) -> None:
    table = sc.measure_kernels(path, ["fp16"]).file
    before = len(gpu.asked)
    for text in ("{", "[]", '{"times": [{"format": "fp16", "sparse": null}]}'):
        table.write_text(text)
        with pytest.raises(DataError, match="kernels-NVIDIA-L4"):
            sc.measure_kernels(layers(16, 8), ["fp16"])
        with pytest.raises(DataError, match="kernels-NVIDIA-L4"):
            sc.advise_sparsity(path, "l4", times="measured")
    assert len(gpu.asked) == before


def test_a_folder_that_cannot_be_made(path: Path, gpu: FakeGpu, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(OutputError, match="cannot make the folder"):
        sc.measure_kernels(path)
    assert not gpu.asked


def _table(folder: Path, name: str, device: str, capability: str, age: int) -> None:
    folder.mkdir(exist_ok=True)
    row = {"format": "fp16", "rows": 1, "inputs": 16, "outputs": 8, "dense": 2.0 + age, "sparse": 1.0}
    path = folder / f"kernels-{name}.json"
    path.write_text(json.dumps({"device": device, "capability": capability, "times": [row]}))
    os.utime(path, (10**9 - age, 10**9 - age))


def test_the_newest_table_of_the_target_counts(folder: Path, cli: Cli, path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no kernels were measured on NVIDIA L4 \(8.9\): .*times has no such"
    ) as caught:
        newest_kernel_times(find_target("l4"))
    assert "secateur times" in str(caught.value.hint)
    _table(folder, "other", "NVIDIA A100-SXM4-80GB", "8.0", 0)
    with pytest.raises(DataError, match="only on NVIDIA A100-SXM4-80GB"):
        newest_kernel_times(find_target("l4"))
    _table(folder, "old", "NVIDIA L4", "8.9", 5)
    _table(folder, "new", "NVIDIA L4", "8.9", 3)
    _table(folder, "wrong", "NVIDIA L4", "8.6", 1)
    assert newest_kernel_times(find_target("l4")).seconds(Format.FP16, 1, 16, 8) == pytest.approx((5e-6, 1e-6))
    assert newest_kernel_times(find_target("a100")).capability == "8.0"
    ran = cli("advise", "--sparsity", path, "--target", "h100", "--times", "measured")
    assert ran.code == 1 and "no kernels were measured on" in ran.err and "secateur times" in ran.err


def test_latency_budgets_by_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = FakeGpu()
    clock = EngineStopwatch(folder=tmp_path / "kept", device=gpu)
    asked: list[str] = []
    monkeypatch.setattr("secateur.compression.stopwatch_of", lambda name: asked.append(name) or clock)
    model, recipe = layers(8, 512, 8), "prune{budget=latency:0.8,criterion=magnitude,repair=none}"
    data = {"x": np.ones((4, 8), np.float32)}
    small = sc.compress(model, recipe, data, timer="tensorrt").graph
    assert asked == ["tensorrt"] and gpu.asked
    assert clock(small, data) <= 0.81 * clock(model, data)
    before = len(gpu.asked)
    assert sc.compress(model, recipe, data, timer="tensorrt").graph.save(tmp_path / "again.onnx") is None
    assert len(gpu.asked) == before


def test_timers_by_name() -> None:
    assert stopwatch_of("onnxruntime") is latency.stopwatch
    assert isinstance(stopwatch_of("tensorrt"), EngineStopwatch)
    with pytest.raises(BackendError, match="no timer 'sundial'"):
        sc.compress(layers(8, 8), "clean", timer="sundial")
    with pytest.raises(TypeError, match="unexpected keyword argument 'timer'"):
        sc.search_criterion(layers(8, 8), {}, timer="tensorrt")  # type: ignore[call-arg]
