"""Writing outputs so that nobody ever meets half of one: in a folder beside the target first, renamed at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from secateur.ir.errors import OutputError
from secateur.ir.scratch import scratch_folder


@contextmanager
def write_atomically(*targets: str | os.PathLike[str]) -> Iterator[tuple[Path, ...]]:
    """Yields one temporary path for each target, in a hidden folder beside it and with the same name.

    All of them are renamed when the block ends well, and removed if not.

    Several targets (a model and its external data) become visible in the order given, the last one last, so name the
    file that refers to the others last. An interrupt or an error leaves the old files untouched.

    Raises:
        OutputError: the folder does not exist or is not writable, or the disk is full.
    """
    paths = [Path(target) for target in targets]
    for path in paths:
        check_writable(path)
    try:
        with ExitStack() as stack:
            parents = dict.fromkeys(path.parent for path in paths)
            folders = {parent: stack.enter_context(scratch_folder(parent)) for parent in parents}
            temporaries = tuple(folders[path.parent] / path.name for path in paths)
            yield temporaries
            for temporary, path in zip(temporaries, paths, strict=True):
                os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {paths[-1]}: {error.strerror or error}",
            hint="free some space or choose another output path; what was there before is unchanged",
        ) from error


def check_writable(path: Path) -> None:
    """Passes when a file can be written at `path`, as far as can be told before: worth asking before long work.

    Raises:
        OutputError: it is a folder or no regular file, or its folder is missing or not writable.
    """
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder", hint="name a file")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: {folder} is not a folder", hint="create the folder first")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is not a regular file", hint="choose another output path")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: {folder} is not writable", hint="choose another folder")
