"""Tables of kernels that were measured on this machine, and where they are kept."""

from __future__ import annotations

import os
from pathlib import Path

from secateur.ir.errors import DataError, OutputError
from secateur.ir.files import check_writable
from secateur.ir.kernel_times import KernelTimes, are_others, load_kernel_times
from secateur.ir.targets import Target

FOLDER = "SECATEUR_TIMES"
"""The environment variable that names another folder."""
_PREFIX = "kernels-"


def times_folder() -> Path:
    """`~/.cache/secateur/times`, or the folder that `SECATEUR_TIMES` names; it need not be there."""
    return Path(os.environ.get(FOLDER) or "~/.cache/secateur/times").expanduser()


def table_path(bench: str, folder: Path | None = None) -> Path:
    """Where the table of a bench (device, package and version in one word) is kept."""
    return (folder or times_folder()) / f"{_PREFIX}{bench}.json"


def prepare(path: Path) -> None:
    """Makes the folder of a file that is kept; worth doing before long work.

    Raises:
        OutputError: it cannot be made, or not be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {path.parent}: {error.strerror}", hint=f"let {FOLDER} name another folder"
        ) from error
    check_writable(path)


def newest_kernel_times(target: Target, folder: Path | None = None) -> KernelTimes:
    """The table that was written last, of those that were measured on the target.

    Raises:
        DataError: there is none, or a file is no such table.
    """
    where = folder or times_folder()
    capability = ".".join(map(str, target.capability))
    others = []
    for path in sorted(
        where.glob(f"{_PREFIX}*.json"), key=lambda one: (one.stat().st_mtime_ns, one.name), reverse=True
    ):
        found = load_kernel_times(path)
        if found.capability in (None, capability) and not are_others(found.device, target.name):
            return found
        others.append(found.device)
    measured = f", only on {', '.join(dict.fromkeys(others))}" if others else ""
    raise DataError(
        f"no kernels were measured on {target.title}{measured}: {where} has no such table",
        hint="run `secateur times MODEL` on that device, or name a file",
    )
