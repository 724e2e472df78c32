"""Whether anything changed since the last build: checksums of what goes in and of what came out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from secateur.ir.errors import DataError
from secateur.ir.files import write_atomically
from secateur.passes.base import Pass

_VERSION = 1


def fingerprint(*parts: object) -> str:
    """One checksum of plain values, in their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check the path") from error


def tree_digest(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of every file in a folder, by name.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    if not path.is_dir():
        return {path.name: file_digest(path)}
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return {one.relative_to(path).as_posix(): file_digest(one) for one in files}


def files_of_passes(passes: Iterable[Pass]) -> dict[str, str]:
    """SHA-256 of the files that passes are given by name (masks, groups of units), by their paths."""
    found = {}
    for one in passes:
        for option in fields(one):
            value = getattr(one, option.name)
            if isinstance(value, str | os.PathLike) and os.path.isfile(value):
                found[os.fspath(value)] = file_digest(Path(value))
    return found


@dataclass(frozen=True)
class Record:
    """What one step was made of (`inputs`, a fingerprint), what it gave (checksums by path), and figures about it."""

    inputs: str
    outputs: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


class Memory:
    """What the last build left: a JSON file beside the build file. One that cannot be read is one that is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = _read(path)

    def fresh(self, step: str, inputs: str) -> Record | None:
        """The record of a step whose inputs are these and whose outputs lie there as they were left, or None."""
        record = self._records.get(step)
        if record is None or record.inputs != inputs:
            return None
        folder = self._path.parent
        for name, digest in record.outputs.items():
            path = folder / name
            if not path.is_file() or file_digest(path) != digest:
                return None
        return record

    def save(self, records: Mapping[str, Record]) -> None:
        """Remembers these steps, and forgets all others.

        Raises:
            OutputError: the file cannot be written.
        """
        if records == self._records:
            return
        document = {"version": _VERSION, "steps": {name: asdict(one) for name, one in records.items()}}
        with write_atomically(self._path) as (temporary,):
            temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Record]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            return {}
        return {name: Record(**entry) for name, entry in document["steps"].items()}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
