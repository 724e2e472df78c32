import dataclasses
import sys
import types

import pytest

from secateur.backends.tensorrt import BackendUnavailable, BuildOptions, TargetError, Trt, load
from secateur.backends.tensorrt.network import open_session
from secateur.backends.tensorrt.options import check_against


@pytest.fixture
def without(monkeypatch):
    """Makes packages fail to import, as if they were not there."""

    def hide(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def namespace(**members):
    return types.SimpleNamespace(**members)


def pretend_tensorrt() -> types.ModuleType:
    """The attributes that a build needs and nothing else, as of a package without targets, streams or progress."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.12.0"
    module.Builder = lambda logger: None
    module.OnnxParser = module.ILogger = type("Interface", (), {})
    module.NetworkDefinitionCreationFlag = namespace(STRONGLY_TYPED=1)
    module.ProfilingVerbosity = namespace(DETAILED=2)
    module.MemoryPoolType = namespace(WORKSPACE=0)
    return module


@pytest.mark.parametrize(("flavor", "name"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_package_that_is_not_installed_says_how_to_get_it(without, flavor, name):
    without(name)
    with pytest.raises(BackendUnavailable, match=f"{flavor} cannot be loaded") as caught:
        load(flavor)
    assert f"pip install 'secateur[{flavor}]'" in str(caught.value)


def test_neither_package_names_both(without):
    without("tensorrt", "tensorrt_rtx")
    with pytest.raises(BackendUnavailable) as caught:
        load()
    assert "tensorrt cannot be loaded" in str(caught.value)
    assert "tensorrt-rtx cannot be loaded" in str(caught.value)
    assert "secateur[tensorrt-rtx]" in (caught.value.hint or "")


def test_unknown_flavor():
    with pytest.raises(ValueError, match="'rtx'"):
        load("rtx")


def test_stub_is_unavailable_and_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(BackendUnavailable, match="no Builder"):
        load("tensorrt")


def test_auto_prefers_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", pretend_tensorrt())
    trt = load()
    assert (trt.flavor, trt.version) == ("tensorrt", "10.12.0")
    assert trt.compute_capabilities == ()
    assert not (trt.streams or trt.reports_progress or trt.sparse_weights)


def test_auto_falls_back_to_rtx(monkeypatch, without):
    pytest.importorskip("tensorrt_rtx")
    without("tensorrt")
    assert load().flavor == "tensorrt-rtx"
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    assert load().flavor == "tensorrt-rtx"


def test_builder_that_cannot_be_made_is_unavailable(monkeypatch):
    module = pretend_tensorrt()

    def no_driver(logger):
        logger.log(namespace(name="ERROR"), "CUDA initialization failure with error: 35, cudaError 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Builder = no_driver
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BackendUnavailable, match="cannot make a builder: CUDA initialization failure") as caught:
        open_session(load("tensorrt"))
    assert "TensorRT-RTX" in (caught.value.hint or "")
    assert len(caught.value.log) == 1


class TestRtx:
    @pytest.fixture
    def trt(self) -> Trt:
        pytest.importorskip("tensorrt_rtx")
        return load("tensorrt-rtx")

    def test_capabilities_are_probed(self, trt):
        assert trt.compute_capabilities == tuple(sorted(trt.compute_capabilities, key=float))
        assert {"8.9", "12.0"} <= set(trt.compute_capabilities)
        assert trt.compute_capability("12.0") == trt.module.ComputeCapability.SM120
        assert trt.streams
        assert trt.reports_progress
        assert trt.sparse_weights

    def test_callbacks_are_plain_functions(self, trt):
        rows = []
        logger = trt.implement("ILogger", log=lambda severity, text: rows.append((severity.name, text)))
        assert isinstance(logger, trt.module.ILogger)
        logger.log(trt.module.ILogger.WARNING, "careful")
        assert rows == [("WARNING", "careful")]

    def test_options_are_held_against_the_package(self, trt):
        check_against(trt, BuildOptions(compute_capabilities=trt.compute_capabilities, sparse_weights=True))
        with pytest.raises(TargetError, match="'8,9'"):
            check_against(trt, BuildOptions(compute_capabilities=("8,9",)))
        untargeted = dataclasses.replace(trt, compute_capabilities=(), sparse_weights=False)
        with pytest.raises(TargetError, match="this machine only"):
            check_against(untargeted, BuildOptions(compute_capabilities=("8.9",)))
        with pytest.raises(BackendUnavailable, match="sparse"):
            check_against(untargeted, BuildOptions(sparse_weights=True))


def test_target_named_twice():
    with pytest.raises(TargetError, match=r"8\.9 is named twice"):
        BuildOptions(compute_capabilities=("8.9", "12.0", "8.9"))


@pytest.mark.parametrize("wrong", [{"workspace_bytes": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_number_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BuildOptions(**wrong)
