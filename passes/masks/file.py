"""Mask files: names, each with the array that says what stays of what it names."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.errors import BackendError, DataError

Values: TypeAlias = NDArray[np.bool_] | NDArray[np.float64]
"""What stays (bool), or how much of it (float64)."""


def read_masks(path: str) -> dict[str, Values]:
    """Reads a `.npz`, `.safetensors` or `.json` file, in its order.

    JSON is an object of names, each with a number, a truth value, or nested lists of either. Numbers that are all 0 or
    1 become bool, others float64.

    Raises:
        DataError: the file cannot be read, has none, or an entry is not made of finite numbers; says which.
        BackendError: safetensors is not installed.
    """
    reader = _READERS.get(Path(path).suffix)
    if reader is None:
        raise DataError(f"{path} is no mask file that is known", hint=f"the name ends in {' or '.join(_READERS)}")
    try:
        entries = reader(path)
    except OSError as error:
        raise DataError(f"cannot read the masks in {path}: {error.strerror or error}", hint="check the path") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no mask file: {error}", hint=_HINT) from error
    if not entries:
        raise DataError(f"{path} has no masks", hint=_HINT)
    return {name: _checked(path, name, array) for name, array in entries.items()}


_HINT = "write names, each with an array of truth values or numbers"


def is_binary(values: Values) -> bool:
    """True for a mask, False for gates."""
    return values.dtype == np.bool_


def _checked(path: str, name: str, array: NDArray[Any]) -> Values:
    where = f"{path}: the mask {name!r}"
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} is not made of numbers", hint=_HINT)
    if not array.size:
        raise DataError(f"{where} is empty", hint=_HINT)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        at = np.argwhere(~np.isfinite(values))[0].tolist()
        raise DataError(f"{where} is {values[tuple(at)]} at {at}", hint="find out what training made of this gate")
    return values.astype(np.bool_) if ((values == 0) | (values == 1)).all() else values


def _read_npz(path: str) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as stored:
        if not isinstance(stored, Mapping):
            raise ValueError("it holds one array without a name")
        return {name: np.asarray(stored[name]) for name in stored}


def _read_safetensors(path: str) -> dict[str, NDArray[Any]]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise BackendError(f"{path} needs safetensors", hint="pip install safetensors, or write .npz") from error
    try:
        return dict(load_file(path))
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"safetensors says {error}") from error


def _read_json(path: str) -> dict[str, NDArray[Any]]:
    document = json.loads(Path(path).read_bytes(), object_pairs_hook=_once)
    if not isinstance(document, dict):
        raise ValueError("it is no object of names")
    return {name: np.array(values) for name, values in document.items()}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


_READERS: Mapping[str, Callable[[str], dict[str, NDArray[Any]]]] = MappingProxyType(
    {".npz": _read_npz, ".safetensors": _read_safetensors, ".json": _read_json}
)
