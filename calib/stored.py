"""Calibration data that lies in files, or in memory as whole arrays, walked in blocks of samples.

An `.npz` is a zip archive of `.npy` members. They are read front to back as streams, so that a data set larger than
memory, compressed or not, costs one block. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from secateur.calib.batches import (
    WEIGHT,
    AnyArray,
    Batch,
    Source,
    batches_of,
    empty,
    named,
    only_input,
    split_by_weight,
)
from secateur.ir.errors import DataError

#: Samples in a block when arrays are sliced: bounded memory, and no cost that statistics would notice.
BLOCK = 8


class Column(Protocol):
    """An array with samples along axis 0, read in order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        ...

    def blocks(self, size: int) -> Iterator[AnyArray]:
        """The array in blocks of `size` samples, the last one shorter."""
        ...

    def load(self) -> AnyArray:
        """The array as a whole."""
        ...


@dataclass(frozen=True)
class ArrayColumn:
    """An array in memory, or one that is mapped from an `.npy`."""

    array: AnyArray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.array.shape)

    def blocks(self, size: int) -> Iterator[AnyArray]:
        """Views of `size` samples."""
        for start in range(0, len(self.array), size):
            yield self.array[start : start + size]

    def load(self) -> AnyArray:
        """The array."""
        return self.array


@dataclass(frozen=True)
class MemberColumn:
    """A member of an `.npz`, streamed; `shape` and `dtype` are those of its header."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, size: int) -> Iterator[AnyArray]:
        """Read-only arrays of `size` samples, decompressed as they are asked for."""
        sample = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with _readable(self.path), zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
            _read_header(stream, self.path, self.member)
            for start in range(0, self.shape[0], size):
                count = min(size, self.shape[0] - start)
                data = stream.read(count * sample)
                if len(data) < count * sample:
                    raise EOFError(f"{self.member} is cut short after sample {start}")
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
            # Reading past the end also compares the checksum.
            if stream.read(1):
                raise ValueError(f"{self.member} is longer than its header says")

    def load(self) -> AnyArray:
        """The array as a whole."""
        with _readable(self.path), np.load(self.path, allow_pickle=False) as archive:
            return np.asarray(archive[self.member])


class ArrayTable:
    """Columns of equally many samples, one for each input, as a source; scalars go with every batch.

    Raises:
        DataError: there are no samples, or not equally many in each column.
    """

    def __init__(self, name: str, columns: Mapping[str, Column], names: tuple[str, ...] | None) -> None:
        inputs = dict(columns)
        weight = inputs.pop(WEIGHT, None)
        inputs = named(inputs, names)
        lengths = {key: column.shape[0] for key, column in inputs.items() if column.shape}
        if not lengths or min(lengths.values()) == 0:
            raise empty(name)
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"{name} does not have equally many samples for each input: axis 0 is {lengths}",
                hint="axis 0 counts samples; where inputs have no batch axis, pass a list of feeds instead",
            )
        self.name = name
        self._samples = max(lengths.values())
        self._scalars = {key: column.load() for key, column in inputs.items() if not column.shape}
        self._columns = {key: column for key, column in inputs.items() if column.shape}
        self._weights = np.ones(()) if weight is None else weight.load()
        if self._weights.size > 1 and self._weights.shape != (self._samples,):
            raise DataError(
                f"{name}: {WEIGHT} has shape {self._weights.shape}, expected ({self._samples},)",
                hint="give one weight for each sample, or one number for all",
            )

    def __iter__(self) -> Iterator[Batch]:
        """Starts a new walk, `BLOCK` samples at a time."""
        blocks = zip(*(column.blocks(BLOCK) for column in self._columns.values()), strict=True)
        for index, arrays in enumerate(blocks):
            feeds = {**dict(zip(self._columns, arrays, strict=True)), **self._scalars}
            start = index * BLOCK
            weights = self._weights[start : start + BLOCK] if self._weights.size > 1 else self._weights
            yield from split_by_weight(feeds, weights, self.name)


class FileBatches:
    """A folder with one batch in each file, in natural order of the file names."""

    def __init__(self, folder: Path, files: list[Path], names: tuple[str, ...] | None) -> None:
        self.name = str(folder)
        self._files = files
        self._names = names

    def __iter__(self) -> Iterator[Batch]:
        """Starts a new walk; one file at a time is in memory."""
        for path in self._files:
            yield from batches_of(self._load(path), self._names, str(path))

    def _load(self, path: Path) -> AnyArray | dict[str, AnyArray]:
        if path.suffix == ".npy":
            return map_array(path).array
        return {name: column.load() for name, column in open_archive(path).items()}


def open_path(path: Path, names: tuple[str, ...] | None) -> Source:
    """The source that a file or folder holds; `secateur.calib.sources.open_source` says how.

    Raises:
        DataError: there is no such file, it is of no known kind, or it is damaged or pickled.
    """
    where = str(path)
    if path.is_dir():
        return _open_folder(path, names)
    if not path.is_file():
        raise DataError(f"{where}: no such file or folder", hint="give the path of an .npz, an .npy or a folder")
    if path.suffix == ".npz":
        return ArrayTable(where, open_archive(path), names)
    if path.suffix == ".npy":
        return ArrayTable(where, {only_input(names, where): map_array(path)}, names)
    raise DataError(f"{where}: unknown kind of file {path.suffix!r}", hint="save the arrays with numpy.savez")


def _open_folder(folder: Path, names: tuple[str, ...] | None) -> Source:
    files = sorted((path for path in folder.iterdir() if path.suffix in (".npy", ".npz")), key=_natural)
    kinds = {path.suffix for path in files}
    if not files:
        raise DataError(f"{folder} has no .npy or .npz files", hint="save one for each input, or one for each batch")
    if len(kinds) > 1:
        raise DataError(f"{folder} has both .npy and .npz files", hint="move the files of one kind elsewhere")
    stems = {path.stem for path in files} - {WEIGHT}
    if kinds == {".npy"} and (names is None or stems <= set(names)):
        return ArrayTable(str(folder), {path.stem: map_array(path) for path in files}, names)
    if kinds == {".npy"}:
        # One batch in each file: that takes a model with one input, and leaves no place for weights.
        only_input(names, f"{folder}: {files[0].name} is not the name of an input; as a batch it")
        if len(stems) < len(files):
            raise DataError(f"{folder}: {WEIGHT}.npy cannot weigh .npy batches", hint="save each batch as an .npz")
    return FileBatches(folder, files, names)


def map_array(path: Path) -> ArrayColumn:
    """An `.npy`, mapped into memory.

    Raises:
        DataError: it is damaged, or holds Python objects.
    """
    with _readable(path):
        with path.open("rb") as stream:
            shape, _, _ = _read_header(stream, path, path.name)
        # An array without elements has nothing to map.
        return ArrayColumn(np.load(path, mmap_mode="r" if np.prod(shape) else None, allow_pickle=False))


def open_archive(path: Path) -> dict[str, Column]:
    """The arrays of an `.npz` by name; only their headers are read.

    Raises:
        DataError: it is no archive, is cut short, or holds Python objects.
    """
    columns: dict[str, Column] = {}
    with _readable(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                shape, fortran, dtype = _read_header(stream, path, member)
            column = MemberColumn(path, member, shape, dtype)
            # Column-major data does not lie sample by sample: it cannot be streamed along axis 0.
            columns[member.removesuffix(".npy")] = ArrayColumn(column.load()) if fortran and len(shape) > 1 else column
    return columns


def _read_header(stream: IO[bytes], path: Path, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether column-major, and dtype of an `.npy` stream, which is left at the first byte of the data."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(
            f"{path}: array {member.removesuffix('.npy')!r} holds pickled Python objects, expected numbers",
            hint="calibration files are never unpickled: save numeric arrays of one shape",
        )
    return shape, fortran, dtype


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what numpy and zipfile raise for damaged files into one error that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", hint="the file is damaged or cut short: save or copy it again"
        ) from error


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts digits by value: `batch2` before `batch10`."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", path.name)]
