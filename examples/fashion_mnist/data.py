"""Fashion-MNIST as arrays: 60,000 images to train and calibrate on, 10,000 to score on, 28 x 28 grey, ten classes.

The four files come, in this order, from
1. the folder that the environment variable `SECATEUR_FASHION_MNIST` names,
2. the installed Debian package `dataset-fashion-mnist`,
3. this module's cache, by default `~/.cache/secateur/fashion-mnist`,
4. the same Debian package, downloaded and unpacked into the cache: no root, no installation, and no
   `apt-get update` beforehand are needed, since apt is given package lists of its own where it knows too little.

Images are normalised as `(pixel / 255 - MEAN) / DEVIATION` with the training split's mean and standard deviation.
Data set: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms", 2017 (MIT licence, Zalando SE).
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the training split's pixels on [0, 1]."""

PACKAGE = "dataset-fashion-mnist"
VARIABLE = "SECATEUR_FASHION_MNIST"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CACHE = Path("~/.cache/secateur/fashion-mnist")

_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
FILES = tuple(f"{prefix}-{part}-ubyte.gz" for prefix in _PREFIX.values() for part in ("images-idx3", "labels-idx1"))


class DatasetError(RuntimeError):
    """The data set is not to be had here, or a file of it is damaged; the message says what to do."""


def load(split: Split, cache: Path | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`split` becomes (images float32 [N, 1, 28, 28], normalised; labels int64 [N], 0 to 9), in the files' order.

    Raises DatasetError if the files cannot be had, or one of them is not what its name says.
    """
    if split not in _PREFIX:
        raise DatasetError(f"there is no split {split!r}: it is one of {', '.join(map(repr, _PREFIX))}")
    folder = locate(cache)
    images = read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz")
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DatasetError(
            f"{folder}: expected images [N, 28, 28] and labels [N], found {list(images.shape)} and {list(labels.shape)}"
        )
    return normalise(images), labels.astype(np.int64)


def calibration(count: int, seed: int, cache: Path | None = None) -> NDArray[np.float32]:
    """`count` images of the training split, float32 [count, 1, 28, 28], drawn without repetition by `seed`.

    A smaller `count` at the same seed gives the first images of a larger one, so that a study of the sample's size
    changes nothing else. Raises ValueError if `count` is not within the split, DatasetError as `load` does.
    """
    images, _ = load("train", cache)
    if not 1 <= count <= len(images):
        raise ValueError(f"count is {count}; the training split has 1 to {len(images)} images to give")
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def normalise(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels uint8 [N, 28, 28] become `(pixel / 255 - MEAN) / DEVIATION`, float32 [N, 1, 28, 28]."""
    scale, shift = np.float32(1 / (255 * DEVIATION)), np.float32(MEAN / DEVIATION)
    return pixels[:, np.newaxis].astype(np.float32) * scale - shift


def read_idx(path: Path) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes becomes an array of the shape that its header states.

    IDX: two zero bytes, the element type (8: uint8), the rank, then each dimension as a big-endian 32-bit integer.
    Raises DatasetError if the file is cut, damaged, or of another type.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read ({error}). {_hint()}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4")) if len(content) >= start else ()
    if len(content) < start or len(content) - start != math.prod(shape):
        raise DatasetError(f"{path}: the header states {list(shape)}, but {len(content)} bytes are there. {_hint()}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def locate(cache: Path | None = None) -> Path:
    """The folder that holds the four files, filled first where need be (the module's docstring has the order).

    Raises DatasetError if the environment variable names a folder without them, or no source has them.
    """
    if named := os.environ.get(VARIABLE):
        folder = Path(named).expanduser()
        if missing := _missing(folder):
            raise DatasetError(f"{VARIABLE} names {folder}, which lacks {', '.join(missing)}. {_hint()}")
        return folder
    cache = (cache or CACHE).expanduser()
    for folder in (INSTALLED, cache):
        if not _missing(folder):
            return folder
    _fill(cache)
    return cache


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).is_file()]


def _hint() -> str:
    return f"Put {', '.join(FILES)} into a folder and set {VARIABLE} to it, or install the Debian package {PACKAGE}."


def _fill(cache: Path) -> None:
    """Unpacks the Debian package beside the cache's files, then renames each into place: a file there is whole."""
    if absent := [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]:
        raise DatasetError(f"Fashion-MNIST is not here, and neither is {' nor '.join(absent)} to get it. {_hint()}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".unpacking-") as scratch:
        package = _download(Path(scratch))
        unpacked = Path(scratch, "unpacked")
        if complaint := _run(["dpkg-deb", "-x", str(package), str(unpacked)], package.parent):
            raise DatasetError(f"{complaint}\n{_hint()}")
        source = unpacked / INSTALLED.relative_to("/")
        if missing := _missing(source):
            raise DatasetError(f"the package {package.name} lacks {', '.join(missing)}. {_hint()}")
        for name in FILES:
            os.replace(source / name, cache / name)


def _download(scratch: Path) -> Path:
    """The package's file, in `scratch`: by the machine's package lists, or by fresh private ones if those fail."""
    lists, archives = scratch / "lists", scratch / "archives"
    for folder in (lists / "partial", archives / "archives" / "partial"):
        folder.mkdir(parents=True)
    machine = ["apt-get", "-q", "-o", f"Dir::Cache={archives}"]
    private = [*machine, "-o", f"Dir::State::Lists={lists}"]
    complaints = [_run([*machine, "download", PACKAGE], scratch)]
    if complaints[0]:
        # One dead source of many fails the update though the package is to be had: the last download alone decides.
        complaints += [_run([*private, "update"], scratch), _run([*private, "download", PACKAGE], scratch)]
    found = sorted(scratch.glob(f"{PACKAGE}_*.deb"))
    if complaints[-1] or not found:
        said = "\n".join(filter(None, complaints)) or "apt-get left no file"
        raise DatasetError(f"the package {PACKAGE} could not be downloaded. {_hint()}\n{said}")
    return found[0]


def _run(command: list[str], folder: Path) -> str:
    """Runs `command` in `folder` and returns its complaint, which is empty if it succeeded."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = (done.stderr or done.stdout).strip()[-1000:]
    return f"`{' '.join(command)}` failed ({done.returncode}): {said}" if done.returncode else ""
