import gc
import resource
import signal
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import tensorrt_models as models

from secateur.backends.tensorrt import BuildCancelled, BuildOptions, build
from secateur.ir.errors import OutputError, SecateurError

pytest.importorskip("tensorrt_rtx")


def options(progress=None, stream=True) -> BuildOptions:
    return BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), progress=progress, stream_to_file=stream)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return models.save(folder / "model.onnx", models.conv(layers=4))


@pytest.fixture
def output(tmp_path):
    """An engine that was there before, and must be there unchanged, alone, when a build fails."""
    folder = tmp_path / "engines"
    folder.mkdir()
    path = folder / "out.engine"
    path.write_bytes(b"old")
    yield path
    assert path.read_bytes() == b"old"
    assert list(folder.iterdir()) == [path]


def test_progress_rises_to_the_end_and_success_replaces_the_old(model, tmp_path):
    seen = []
    (tmp_path / "out.engine").write_bytes(b"old")
    report = build(model, tmp_path / "out.engine", options(seen.append))
    fractions = [event.fraction for event in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.5 < fractions[-1] <= 1
    assert all(0 <= event.step < event.steps for event in seen)
    assert (tmp_path / "out.engine").stat().st_size == report.bytes


@pytest.mark.parametrize("allowed", [0, 5, 20])
def test_callback_stops_the_build(model, output, allowed):
    seen = []

    def progress(event):
        seen.append(event)
        return len(seen) <= allowed

    with pytest.raises(BuildCancelled, match="stopped"):
        build(model, output, options(progress))
    assert len(seen) == allowed + 1


@pytest.mark.parametrize("kind", [ZeroDivisionError, OSError])
def test_error_in_the_callback_comes_back_as_it_is(model, output, kind):
    def progress(_):
        raise kind("mine")

    with pytest.raises(kind, match="mine"):
        build(model, output, options(progress))


def test_interrupt_stops_the_build(model, output):
    seen = []

    def progress(event):
        seen.append(event)
        if len(seen) == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.5)

    with pytest.raises(KeyboardInterrupt):
        build(model, output, options(progress))
    assert len(seen) == 3


def test_folder_that_does_not_exist(model, tmp_path):
    with pytest.raises(OutputError, match="not a folder"):
        build(model, tmp_path / "none" / "out.engine", options())


def test_parent_that_is_a_file(model):
    with pytest.raises(OutputError, match="not a folder"):
        build(model, model / "out.engine", options())


def test_output_that_is_a_folder_or_a_device(model, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        build(model, tmp_path, options())
    with pytest.raises(OutputError, match="/dev/full"):
        build(model, "/dev/full", options())


def test_model_is_never_overwritten(model):
    before = model.read_bytes()
    with pytest.raises(OutputError, match="the model itself"):
        build(model, model, options())
    assert model.read_bytes() == before
    beside = model.rename(model.parent / "e.json")
    with pytest.raises(OutputError, match="the model itself"):
        build(beside, model.parent / "e", options())
    assert beside.read_bytes() == before


@contextmanager
def file_size_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stream", [True, False])
def test_no_room_for_the_engine(model, output, stream):
    with file_size_limit(50_000), pytest.raises(OutputError, match="cannot write"):
        build(model, output, options(stream=stream))


@pytest.mark.parametrize("stream", [True, False])
def test_full_disk(model, output, stream, monkeypatch):
    @contextmanager
    def onto_full_device(*_):
        yield (Path("/dev/full"), Path("/dev/null"))

    monkeypatch.setattr("secateur.backends.tensorrt.engine.write_atomically", onto_full_device)
    with pytest.raises(OSError, match="No space left"):
        build(model, output, options(stream=stream))


@pytest.fixture
def builders(monkeypatch):
    """Weak references to all builders made; nothing but reference counts may free them, for see `_forget_locals`."""
    module = pytest.importorskip("tensorrt_rtx")
    made, real = [], module.Builder

    def remember(logger):
        builder = real(logger)
        made.append(weakref.ref(builder))
        return builder

    monkeypatch.setattr(module, "Builder", remember)
    gc.disable()
    yield made
    gc.enable()


def test_builder_is_freed_at_once_when_a_build_ends_or_fails(model, tmp_path, builders):
    output = tmp_path / "out.engine"
    failures = []
    build(model, output, options())
    build(model, output, options(lambda _: True))
    for wrong in (
        lambda: build(models.save(tmp_path / "cut.onnx", models.onnx.ModelProto()), output, options()),
        lambda: build(model, output, options(lambda _: False)),
        lambda: build(model, tmp_path / "none" / "out.engine", options()),
        lambda: build(model, output, BuildOptions(flavor="tensorrt-rtx", workspace_bytes=1 << 20)),
        lambda: build(models.save(tmp_path / "dynamic.onnx", models.conv(batch="N")), output, options()),
    ):
        with pytest.raises(SecateurError) as caught:
            wrong()
        failures.append(caught.value)
    assert len(builders) == 7
    assert [builder() for builder in builders] == [None] * 7
    with file_size_limit(50_000), pytest.raises(OutputError):
        build(model, output, options())
    assert builders[-1]() is None
