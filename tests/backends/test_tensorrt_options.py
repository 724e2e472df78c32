"""What a build can be asked for beside targets and shapes: each reaches the builder, or is refused with a reason."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tensorrt_models as models
from helpers.tensorrt_fake import Full

from secateur.backends.tensorrt import (
    BackendUnavailable,
    BuildOptions,
    PluginError,
    Profile,
    TargetError,
    TensorRTError,
    build,
    options,
    parse_shape,
)
from secateur.backends.tensorrt.commands import commands


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.save(tmp_path / "model.onnx", models.conv())


class TestRtx:
    @pytest.fixture(autouse=True)
    def _rtx(self):
        pytest.importorskip("tensorrt_rtx")

    def options(self, **more: object) -> BuildOptions:
        return BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9",), optimization_level=0, **more)

    @pytest.mark.parametrize(("flag", "word"), [("refit", "refittable"), ("strip", "stripped")])
    def test_engines_without_weights_want_a_gpu(self, flag, word, model, tmp_path, monkeypatch):
        monkeypatch.setattr(options, "_has_driver", lambda: False)
        with pytest.raises(BackendUnavailable, match=f"builds {word} engines only where there is an NVIDIA GPU"):
            build(model, tmp_path / "e", self.options(**{flag: True}))

    def test_and_one_target(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr(options, "_has_driver", lambda: True)
        two = BuildOptions(flavor="tensorrt-rtx", compute_capabilities=("8.9", "12.0"), refit=True)
        with pytest.raises(TargetError, match=r"for one compute capability, not for 8\.9, 12\.0"):
            build(model, tmp_path / "e", two)

    def test_version_compatible(self, model, tmp_path):
        report = build(model, tmp_path / "e", self.options(version_compatible=True))
        assert report.flags == ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")
        assert report.sha256 != build(model, tmp_path / "e", self.options()).sha256

    def test_there_is_no_timing_cache(self, model, tmp_path):
        with pytest.raises(BackendUnavailable, match="keeps no timing cache"):
            build(model, tmp_path / "e", self.options(timing_cache=str(tmp_path / "cache")))

    @pytest.mark.parametrize("content", [None, b"no library"])
    def test_plugin_libraries_that_cannot_be_loaded(self, content, model, tmp_path):
        path = tmp_path / "plugins.so"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PluginError, match=r"plugins\.so") as caught:
            build(model, tmp_path / "e", self.options(plugins=(str(path),)))
        assert ("no such file" if content is None else "cannot be loaded") in str(caught.value)
        assert not (tmp_path / "e").exists()


class TestFull:
    def build(self, model: Path, monkeypatch: pytest.MonkeyPatch, fake: Full, **more: object) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", fake.module())
        build(model, model.with_name("e"), BuildOptions(flavor="tensorrt", **more))

    def test_flags(self, model, monkeypatch):
        fake = Full(node="conv0")
        self.build(model, monkeypatch, fake, refit=True, strip=True, version_compatible=True)
        assert fake.flags == ["REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"]

    def test_timing_cache_is_read_if_it_is_there_and_written_anew(self, model, monkeypatch):
        cache = model.with_name("timing.cache")
        for expected in (b"+timed", b"+timed+timed"):
            self.build(model, monkeypatch, Full(), timing_cache=str(cache))
            assert cache.read_bytes() == expected

    def test_timing_cache_of_another_version(self, model, monkeypatch):
        cache = model.with_name("timing.cache")
        cache.write_bytes(b"of another version")
        with pytest.raises(TensorRTError, match="cannot be used"):
            self.build(model, monkeypatch, Full(), timing_cache=str(cache))
        assert cache.read_bytes() == b"of another version"


# ---- command lines --------------------------------------------------------------------------------------------------


def test_command_lines_of_other_tools():
    asked = BuildOptions(
        flavor="tensorrt-rtx",
        compute_capabilities=("8.9", "12.0"),
        profiles=(Profile((parse_shape("x=1x8,2x8,4x8"), parse_shape("a b=3"))),),
        workspace_bytes=1 << 30,
        optimization_level=2,
        require_sparse=True,
    )
    found = commands("my model.onnx", "out.engine", asked)
    assert found.trtexec.startswith("tensorrt_rtx '--onnx=my model.onnx' --saveEngine=out.engine --skipInference")
    words = shlex.split(found.trtexec)
    for word in (
        "--computeCapabilities=89,120",
        "--minShapes=x:1x8,a b:3",
        "--maxShapes=x:4x8,a b:3",
        "--memPoolSize=workspace:1024",
        "--builderOptimizationLevel=2",
        "--sparsity=enable",
    ):
        assert word in words
    assert found.polygraphy.startswith("POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy convert 'my model.onnx'")
    words = shlex.split(found.polygraphy)
    assert words[words.index("--trt-opt-shapes") + 1 :][:2] == ["x:[2,8]", "a b:[3]"]
    assert any("2:4" in one for one in found.missing)
    full = commands("m.onnx", "e", BuildOptions(flavor="tensorrt", timing_cache="t", version_compatible=True))
    assert full.trtexec.startswith("trtexec ")
    assert "--stronglyTyped" in full.trtexec
    assert "--timingCacheFile=t" in full.trtexec
    assert "excludeLean" not in full.trtexec
    assert full.polygraphy.startswith("polygraphy convert")


def test_polygraphy_takes_its_line_and_builds_the_same_engine(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("polygraphy")
    asked = BuildOptions(
        flavor="tensorrt-rtx",
        compute_capabilities=("8.9",),
        profiles=(Profile((parse_shape("x=1x8x16x16,2x8x16x16,4x8x16x16"),)),),
    )
    path = models.save(tmp_path / "model.onnx", models.conv(batch="N"))
    line = commands(path, tmp_path / "theirs.engine", asked).polygraphy
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(line, shell=True, check=True, capture_output=True, env={**os.environ, "PATH": folders})
    ours = build(path, tmp_path / "ours.engine", asked)
    assert (tmp_path / "theirs.engine").read_bytes() == ours.engine.read_bytes()
