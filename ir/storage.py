"""Where the bytes of weights lie: a file that is mapped only when somebody looks, or memory."""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from secateur.ir.errors import ModelError

# Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
_CHUNK = 8 << 20
_SMALL = 1 << 16
_CUT = "the file was cut short; restore it"


class OpenFiles:
    """Keeps at most so many files of one model open: where one more is opened, the one opened first is released."""

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self._open: dict[weakref.ref[Storage], None] = {}

    def opened(self, storage: Storage) -> None:
        """Notes that a storage has just been opened, and releases another one if these are too many."""
        self._open[weakref.ref(storage)] = None
        while len(self._open) > self.limit:
            first = next(iter(self._open))
            del self._open[first]
            if (other := first()) is not None:
                other.release()


class Storage:
    """Read-only bytes, in a file or in memory. Nothing is read before it is asked for.

    A file's identity is noted when it is opened, so that weights are never read from a file that has been replaced or
    changed since: that is an error, not other numbers.
    """

    __slots__ = ("__weakref__", "_bytes", "_descriptor", "_files", "_held", "_identity", "_map", "path", "size")

    def __init__(self, source: str | os.PathLike[str] | bytes, files: OpenFiles | None = None) -> None:
        """Notes the file's identity and size, and keeps it open as long as `files` lets it.

        Raises:
            ModelError: the file does not exist, cannot be read, or is no regular file.
        """
        self.path: Path | None = None if isinstance(source, bytes) else Path(source)
        self._bytes = source if isinstance(source, bytes) else None
        self._files = files
        self._descriptor: int | None = None
        self._map: mmap.mmap | None = None
        self._held = False
        self._identity: tuple[int, int, int, int] | None = None
        if self.path is None:
            self.size = len(source) if isinstance(source, bytes) else 0
            return
        self._open()
        assert self._identity is not None
        self.size = self._identity[2]

    @property
    def file(self) -> tuple[int, int] | None:
        """Device and inode of the file, whatever it is called by now; None for memory."""
        return None if self._identity is None else self._identity[:2]

    def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`: mapped, or read where they are so few that a map would cost more."""
        if self._bytes is not None:
            return memoryview(self._bytes)[offset : offset + length]
        if length < _SMALL:
            return memoryview(self.read(offset, length))
        descriptor = self._open()
        if self._map is None:
            self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        return memoryview(self._map)[offset : offset + length]

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes from `offset`."""
        return b"".join(self.chunks(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills a buffer of bytes from `offset`: memory that is used again costs less than fresh one."""
        if self._bytes is not None:
            buffer[:] = self._bytes[offset : offset + len(buffer)]
            return
        descriptor = self._open()
        while buffer:
            count = os.preadv(descriptor, [buffer], offset)
            if not count:
                raise ModelError(f"{self.path} ends {len(buffer)} bytes early", hint=_CUT)
            buffer, offset = buffer[count:], offset + count

    def chunks(self, offset: int, length: int) -> Iterator[bytes | memoryview]:
        """The same bytes in pieces that are read, not mapped, so that streaming keeps nothing resident."""
        if self._bytes is not None:
            yield self.view(offset, length)
            return
        while length > 0:
            piece = os.pread(self._open(), min(length, _CHUNK), offset)
            if not piece:
                raise ModelError(f"{self.path} ends {length} bytes early", hint=_CUT)
            yield piece
            offset += len(piece)
            length -= len(piece)

    def copy_to(self, descriptor: int, offset: int, length: int) -> None:
        """Appends the bytes to an open file, inside the kernel where it can."""
        if self._bytes is None and length >= _SMALL and hasattr(os, "copy_file_range"):
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

    def hold(self) -> None:
        """Keeps the file open from now on, so that its bytes stay reachable when another takes its name.

        Raises:
            ModelError: it has changed since it was opened first.
        """
        if self.path is not None:
            self._open()
            self._held = True

    def unmap(self) -> None:
        """Lets go of what has been mapped, so that it is no longer resident. Views that somebody has stay valid."""
        self._map = None

    def release(self) -> None:
        """Closes the file until it is needed again, unless it is held. Views that somebody has stay valid."""
        if self._descriptor is not None and not self._held:
            os.close(self._descriptor)
            self._descriptor = self._map = None

    def _open(self) -> int:
        if self._descriptor is None:
            assert self.path is not None
            try:
                self._descriptor = os.open(self.path, _READING)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise ModelError(f"cannot read {self.path}: {reason}", hint="check the path") from error
            if self._files is not None:
                self._files.opened(self)
        self._check(os.fstat(self._descriptor))
        return self._descriptor

    def _check(self, status: os.stat_result) -> None:
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self._identity is None and stat.S_ISREG(status.st_mode):
            self._identity = identity
        if self._identity != identity:
            self._held = False
            self.release()
            if self._identity is None:
                raise ModelError(f"cannot read {self.path}: it is no regular file", hint="name a file")
            raise ModelError(f"{self.path} has changed since its weights were loaded", hint="load the model again")

    def __del__(self) -> None:
        self._held = False
        self._descriptor = getattr(self, "_descriptor", None)
        with suppress(OSError):
            self.release()


def write_all(descriptor: int, piece: bytes | memoryview) -> None:
    """`os.write` until everything is written (it may write less than it is given)."""
    view = memoryview(piece).cast("B")
    while view:
        view = view[os.write(descriptor, view) :]
