"""Where the bytes of weights lie: a file that is mapped only when somebody looks, or memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from secateur.ir.errors import ModelError

_CHUNK = 8 << 20


class Storage:
    """Read-only bytes, in a file or in memory. Nothing is read before it is asked for.

    A file's identity is noted when it is opened, so that weights are never read from a file that has been replaced
    since: that is an error, not other numbers.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        """Notes the file's identity and size, and keeps it open.

        Raises:
            ModelError: the file does not exist or cannot be read.
        """
        self.path: Path | None = None if isinstance(source, bytes) else Path(source)
        self._bytes = source if isinstance(source, bytes) else None
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None
        if self.path is None:
            self.size = len(source) if isinstance(source, bytes) else 0
            return
        self._identity: tuple[int, int, int, int] | None = None
        status = os.fstat(self._open())
        self.size = status.st_size

    def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, mapped, not copied."""
        if self._bytes is not None:
            return memoryview(self._bytes)[offset : offset + length]
        if length == 0:
            return memoryview(b"")
        if self._map is None:
            self._map = mmap.mmap(self._open(), 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[offset : offset + length]

    def chunks(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """The same bytes in pieces that are read, not mapped, so that streaming keeps nothing resident."""
        if self._bytes is not None:
            yield self.view(offset, length)
            return
        descriptor = self._open()
        while length > 0:
            piece = os.pread(descriptor, min(length, _CHUNK), offset)
            if not piece:
                raise ModelError(f"{self.path} ends {length} bytes early", hint="the file was cut short; restore it")
            yield piece
            offset += len(piece)
            length -= len(piece)

    def copy_to(self, descriptor: int, offset: int, length: int) -> None:
        """Appends the bytes to an open file, inside the kernel where it can."""
        if self._bytes is None and hasattr(os, "copy_file_range"):
            source = self._open()
            with suppress(OSError):  # not on this file system: fall through to plain reading and writing
                while length > 0:
                    copied = os.copy_file_range(source, descriptor, length, offset)
                    if copied == 0:
                        break
                    offset += copied
                    length -= copied
        for piece in self.chunks(offset, length):
            write_all(descriptor, piece)

    def release(self) -> None:
        """Closes the file until it is needed again (its identity is checked then). Mapped views stay valid."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            assert self.path is not None
            try:
                self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise ModelError(
                    f"cannot read {self.path}: {error.strerror}", hint="check the path, or restore the file"
                ) from error
            status = os.fstat(self._descriptor)
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if self._identity is not None and identity != self._identity:
                self.release()
                raise ModelError(f"{self.path} has changed since its weights were loaded", hint="load the model again")
            self._identity = identity
        return self._descriptor

    def __del__(self) -> None:
        self._descriptor = getattr(self, "_descriptor", None)
        with suppress(OSError):
            self.release()


def write_all(descriptor: int, piece: bytes | memoryview) -> None:
    """`os.write` until everything is written (it may write less than it is given)."""
    view = memoryview(piece).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
