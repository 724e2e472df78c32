"""The Fashion-MNIST example: its files are found, fetched and read as stated, and the network beside them is whole."""

from __future__ import annotations

import gzip
import importlib.util
import math
import stat
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"
Pixels = NDArray[np.uint8]


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fashion_mnist_data", EXAMPLE / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


data = _module()


def idx(array: Pixels) -> bytes:
    """The IDX format from its description, written apart from the reader."""
    return b"\0\0\x08" + bytes([array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def write_split(folder: Path, prefix: str, images: Pixels, labels: Pixels) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def write_files(folder: Path, train: int = 40, test: int = 7) -> tuple[Pixels, Pixels]:
    """Four small files with a different picture at each place; returns the training split."""
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (train, 28, 28), np.uint8), rng.integers(0, 10, train, np.uint8)
    write_split(folder, "train", images, labels)
    write_split(folder, "t10k", images[:test], labels[:test])
    return images, labels


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(data.VARIABLE, raising=False)
    monkeypatch.setattr(data, "INSTALLED", tmp_path / "not-installed")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Pixels, Pixels]:
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "files"))
    return write_files(tmp_path / "files")


# Reading


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_reading_inverts_writing(tmp_path_factory: pytest.TempPathFactory, shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path = tmp_path_factory.mktemp("idx") / "x.gz"
    path.write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(data.read_idx(path), array)


WHOLE = idx(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(WHOLE)[:-12], "cannot be read"),
        (WHOLE, "cannot be read"),
        (b"", "bytes|IDX"),
        (gzip.compress(b"\0\0\x0d" + WHOLE[3:]), "not an IDX file of unsigned bytes"),
        (gzip.compress(WHOLE[:-1]), r"the header states \[2, 3\]"),
        (gzip.compress(WHOLE + b"\0"), r"the header states \[2, 3\]"),
        (gzip.compress(WHOLE[:10]), "the header states"),
    ],
    ids=["cut archive", "no archive", "empty", "floats", "too short", "too long", "cut header"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "damaged.gz"
    path.write_bytes(content)
    with pytest.raises(data.DatasetError, match=said) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)


def test_every_pixel_is_normalised_by_the_stated_formula(files: tuple[Pixels, Pixels]) -> None:
    images, labels = data.load("train")
    assert (images.dtype, images.shape) == (np.float32, (40, 1, 28, 28))
    assert (labels.dtype, labels.shape) == (np.int64, (40,))
    expected = (files[0].astype(np.float64) / 255 - data.MEAN) / data.DEVIATION
    np.testing.assert_allclose(images[:, 0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels, files[1])


def test_the_splits_are_apart(files: tuple[Pixels, Pixels]) -> None:
    assert len(data.load("train")[0]) == 40
    assert len(data.load("test")[0]) == 7
    with pytest.raises(data.DatasetError, match="'train', 'test'"):
        data.load("validation")


def test_labels_that_do_not_fit_the_images_are_refused(files: tuple[Pixels, Pixels], tmp_path: Path) -> None:
    write_split(tmp_path / "files", "t10k", files[0][:5], files[1][:4])
    with pytest.raises(data.DatasetError, match=r"\[5, 28, 28\] and \[4\]"):
        data.load("test")


# Calibration


@given(count=st.integers(1, 40), more=st.integers(0, 39), seed=st.integers(0, 1000))
def test_a_calibration_set_is_a_seeded_draw_without_repetition(count: int, more: int, seed: int) -> None:
    images = np.arange(40, dtype=np.uint8).repeat(784).reshape(40, 28, 28)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda split, cache: (data.normalise(images), None) if split == "train" else None)
        drawn = data.calibration(count, seed)
        larger = data.calibration(min(40, count + more), seed)
    assert (drawn.dtype, drawn.shape) == (np.float32, (count, 1, 28, 28))
    assert len(np.unique(drawn[:, 0, 0, 0])) == count
    np.testing.assert_array_equal(larger[:count], drawn)


@pytest.mark.usefixtures("files")
def test_calibration_sets_differ_by_seed_and_stay_within_the_split() -> None:
    assert not np.array_equal(data.calibration(20, 0), data.calibration(20, 1))
    for count in (0, 41):
        with pytest.raises(ValueError, match=f"count is {count}"):
            data.calibration(count, 0)


# Where the files come from


def test_the_variable_goes_before_the_installed_package_and_that_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed, cache, named = tmp_path / "not-installed", tmp_path / "cache", tmp_path / "named"
    write_files(cache)
    assert data.locate(cache) == cache
    write_files(installed)
    assert data.locate(cache) == installed
    write_files(named)
    monkeypatch.setenv(data.VARIABLE, str(named))
    assert data.locate(cache) == named


def test_a_named_folder_without_a_file_is_an_error_and_no_fallback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_files(tmp_path / "cache")
    write_files(tmp_path / "named")
    (tmp_path / "named" / data.FILES[1]).unlink()
    monkeypatch.setenv(data.VARIABLE, str(tmp_path / "named"))
    with pytest.raises(data.DatasetError, match=f"lacks {data.FILES[1]}") as caught:
        data.locate(tmp_path / "cache")
    assert data.FILES[2] not in str(caught.value).split("Put")[0]


Tools = Callable[[str, str], Path]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    """Installs stand-ins for apt-get (given its body) and dpkg-deb (a package is a tar); returns apt-get's diary."""
    files, programs, diary = tmp_path / "source", tmp_path / "bin", tmp_path / "diary"
    package = tmp_path / f"{data.PACKAGE}_1_all.deb"
    monkeypatch.setattr(data, "INSTALLED", Path("/usr/share/no-such-place/fashion-mnist"))

    def install(apt: str, lacking: str) -> Path:
        write_files(files)
        if lacking:
            (files / lacking).unlink()
        with tarfile.open(package, "w") as archive:
            archive.add(files, "usr/share/no-such-place/fashion-mnist")
        programs.mkdir()
        for name, body in {
            "apt-get": f'echo "$*" >> {diary}\ngive() {{ cp {package} .; }}\n{apt}',
            "dpkg-deb": 'mkdir "$3" && tar -xf "$2" -C "$3"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        return diary

    return install


def test_a_package_that_the_machine_knows_is_downloaded_once(tools: Tools, tmp_path: Path) -> None:
    diary, cache = tools("give", ""), tmp_path / "cache"
    assert len(data.load("test", cache)[0]) == 7
    assert len(data.load("train", cache)[0]) == 40
    assert sorted(p.name for p in cache.iterdir()) == sorted(data.FILES), "nothing else stays behind"
    (line,) = diary.read_text().splitlines()
    assert line.endswith(f"download {data.PACKAGE}")
    assert "Dir::State::Lists" not in line
    assert f"Dir::Cache={cache}" in line, "apt's own cache needs root"


@pytest.mark.parametrize("update", [0, 100], ids=["clean update", "one dead source"])
def test_an_unknown_package_is_looked_up_with_private_lists(tools: Tools, tmp_path: Path, update: int) -> None:
    apt = f'case "$*" in *Lists=*update) exit {update};; *Lists=*download*) give;; *) exit 100;; esac'
    diary, cache = tools(apt, ""), tmp_path / "cache"
    assert data.locate(cache) == cache
    first, second, third = diary.read_text().splitlines()
    assert first.endswith(f"download {data.PACKAGE}")
    assert second.endswith("update")
    assert third.endswith(f"download {data.PACKAGE}")
    assert all(f"Dir::State::Lists={cache}" in line for line in (second, third))


@pytest.mark.parametrize(
    ("apt", "lacking", "said"),
    [
        ('echo "E: no network" >&2; exit 100', "", "E: no network"),
        ("exit 0", "", "apt-get left no file"),
        (f"echo damaged > {data.PACKAGE}_1_all.deb", "", "dpkg-deb -x"),
        ("give", data.FILES[3], f"lacks {data.FILES[3]}"),
    ],
    ids=["no network", "no file", "damaged package", "incomplete package"],
)
def test_a_failure_says_what_to_do_and_leaves_the_cache_empty(
    tools: Tools, tmp_path: Path, apt: str, lacking: str, said: str
) -> None:
    tools(apt, lacking)
    with pytest.raises(data.DatasetError) as caught:
        data.locate(tmp_path / "cache")
    assert said in str(caught.value)
    assert f"set {data.VARIABLE}" in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_without_the_package_tools_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DatasetError, match=f"neither is apt-get nor dpkg-deb.*{data.FILES[0]}.*{data.VARIABLE}"):
        data.locate(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# The network


def test_the_network_is_plain_small_and_names_no_machine() -> None:
    path = EXAMPLE / "resnet.onnx"
    assert path.stat().st_size <= 4_000_000
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert shapes == [["batch", 1, 28, 28], ["batch", 10]]
    assert {node.op_type for node in model.graph.node} <= {"Conv", "Relu", "Add", "ReduceMean", "Gemm"}
    assert sum(math.prod(weight.dims) for weight in model.graph.initializer) > 500_000
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.slow
def test_the_network_scores_what_its_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    runtime = pytest.importorskip("onnxruntime")
    try:
        images, labels = data.load("test")
    except data.DatasetError as absent:
        pytest.skip(str(absent))
    session = runtime.InferenceSession(EXAMPLE / "resnet.onnx", providers=["CPUExecutionProvider"])
    predicted = session.run(["logits"], {"image": images[:2000]})[0].argmax(1)
    assert np.mean(predicted == labels[:2000]) > 0.92
