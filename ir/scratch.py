"""Hidden folders beside an output to make it in: gone when the work ends, and gone after the next if it was killed.

Each folder holds a file that its owner keeps locked (`flock`), which the system lets go of when the process dies,
however it dies. So a folder whose lock can be taken belongs to nobody, and the next run in the same place removes it.
Where files cannot be locked, nothing is removed that was not made by the same run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".secateur-"
_LOCK, _INSIDE = "lock", "files"


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yields an empty folder inside the folder `beside`, on the same disk, and removes it with all that is in it.

    Raises:
        OSError: the folder cannot be made.
    """
    remove_abandoned(beside)
    folder, lock = _make(beside)
    try:
        yield folder / _INSIDE
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(beside: Path) -> None:
    """Removes scratch folders whose owners are dead; what cannot be removed stays."""
    for folder in beside.glob(f"{PREFIX}*/"):
        with suppress(OSError):
            folder.rmdir()  # killed before it had a lock
        with suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                if _take(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _make(beside: Path) -> tuple[Path, int]:
    """A folder and its lock, which is held; another run may take away what is not locked yet, so that one is new."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        if _take(lock) is not False and (folder / _LOCK).exists():
            (folder / _INSIDE).mkdir()
            return folder, lock
        os.close(lock)


def _take(lock: int) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has none
        return None
    return True
