"""Outputs of a build that appear together when all of it went well, and not at all otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from secateur.ir.errors import OutputError
from secateur.ir.files import check_writable
from secateur.ir.scratch import scratch_folder


class Staging:
    """Hidden folders, one beside each output, under whose names files can be made without being seen."""

    def __init__(self) -> None:
        self._stages: dict[Path, Path] = {}
        self._made: list[Path] = []
        self._open = ExitStack()

    def place(self, target: Path) -> Path:
        """Where to write what shall be `target` later; companions beside it come along.

        Raises:
            OutputError: the folder cannot be made or written to.
        """
        if target not in self._stages:
            self._make_folder(target.parent)
            check_writable(target)
            self._stages[target] = self._open.enter_context(scratch_folder(target.parent))
        return self._stages[target] / target.name

    def files(self, target: Path) -> tuple[Path, ...]:
        """The paths that `publish` will give to a target and its companions."""
        stage = self._stages[target]
        return tuple(sorted(target.parent / path.name for path in stage.iterdir()))

    def publish(self) -> None:
        """Puts everything into place: of each target the files beside it first, then the target itself.

        Raises:
            OutputError: a file cannot be put into place.
        """
        for target, stage in self._stages.items():
            for path in sorted(stage.iterdir(), key=lambda one: one.name == target.name):
                try:
                    os.replace(path, target.parent / path.name)
                except OSError as error:
                    raise OutputError(f"cannot write {target.parent / path.name}: {error.strerror}") from error
        self._made.clear()

    def remove(self) -> None:
        """Takes away all that is not published, and folders that were made for it."""
        self._open.close()
        for folder in reversed(self._made):
            with suppress(OSError):  # somebody else put a file into it
                folder.rmdir()

    def _make_folder(self, folder: Path) -> None:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(missing):
            try:
                one.mkdir(exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make the folder {one}: {error.strerror}", hint="choose another") from error
            self._made.append(one)


@contextmanager
def staging() -> Iterator[Staging]:
    """Yields a stage; what was not published when the block ends is gone."""
    stage = Staging()
    try:
        yield stage
    finally:
        stage.remove()
