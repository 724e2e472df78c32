"""Where an engine goes while it is made."""

from __future__ import annotations

import hashlib
from typing import BinaryIO


class Sink:
    """An open file that counts and hashes what it gets, and keeps an error until it may be raised."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """The number of bytes written: all, or none from the first error on."""
        if self._error is not None:
            return 0
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self._error = error
            return 0
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def check(self) -> None:
        """Raises the error that `write` met."""
        if self._error is not None:
            raise self._error
