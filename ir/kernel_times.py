"""Measured times of dense and 2:4 matrix products on one device, which may stand in for the roofline."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from secateur.ir.errors import DataError
from secateur.ir.targets import Format, Target

Key: TypeAlias = tuple[Format, int, int]
"""Format, inputs, outputs of a layer."""
_FIELDS = ("format", "rows", "inputs", "outputs", "dense", "sparse")
_HINT = 'expected {"device": name, "times": [{"format", "rows", "inputs", "outputs", "dense", "sparse"}, …]}'


@dataclass(frozen=True)
class KernelTimes:
    """Microseconds of dense and of 2:4 products: for each layer shape, rows -> (dense, sparse), rows ascending."""

    device: str
    times: Mapping[Key, tuple[tuple[int, float, float], ...]]
    capability: str | None = None
    """The compute capability of the device, as "8.9"; None where the table does not say."""

    def seconds(self, form: Format, rows: int, inputs: int, outputs: int) -> tuple[float, float] | None:
        """What [rows, inputs] x [inputs, outputs] takes dense and 2:4, in seconds.

        None where this layer was not measured, or only with fewer or with more rows. Between two numbers of rows it is
        interpolated, both times and rows by their logarithms.
        """
        found = self.times.get((form, inputs, outputs), ())
        above = next((index for index, row in enumerate(found) if row[0] >= rows), None)
        if above is None or (above == 0 and found[0][0] != rows):
            return None
        low, high = found[max(above - 1, 0)], found[above]
        part = 1.0 if high[0] == rows else math.log(rows / low[0]) / math.log(high[0] / low[0])
        dense, sparse = (math.exp((1 - part) * math.log(low[i]) + part * math.log(high[i])) / 1e6 for i in (1, 2))
        return dense, sparse


def load_kernel_times(path: str | os.PathLike[str], target: Target | None = None) -> KernelTimes:
    """Reads a table such as `secateur times` and `benchmarks/sparse_kernels.py` write.

    Of several times for one product (one for each library, say) the fastest counts. Rows whose `sparse` is null, for
    no sparse kernel took them, are left out.

    Args:
        path: a JSON file.
        target: the device that is asked about; None for any.

    Raises:
        DataError: the file cannot be read, is no such table, or was measured on another device than the target.
    """
    where = os.fspath(path)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the kernel times {where}: {error.strerror}", hint="check the path") from error
    except ValueError as error:
        raise DataError(f"the kernel times {where} are no JSON: {error}", hint=_HINT) from error
    entries = document.get("times") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"the kernel times {where} have no list `times`", hint=_HINT)
    best: dict[Key, dict[int, tuple[float, float]]] = {}
    for index, entry in enumerate(entries):
        refused = isinstance(entry, dict) and entry.get("sparse", 0) is None
        whole = {**entry, "sparse": entry.get("dense")} if refused else entry
        form, rows, inputs, outputs, dense, sparse = _row(whole, f"{where}, times[{index}]")
        if refused:
            continue
        of = best.setdefault((form, inputs, outputs), {})
        before = of.get(rows, (math.inf, math.inf))
        of[rows] = min(before[0], dense), min(before[1], sparse)
    times = {key: tuple((rows, *pair) for rows, pair in sorted(of.items())) for key, of in best.items()}
    device = str(document.get("device", "an unnamed device"))
    if target is not None and are_others(device, target.name):
        raise DataError(
            f"the kernel times {where} were measured on {device}, not on {target.name}",
            hint="name that device as the target, or measure this one",
        )
    capability = document.get("capability")
    return KernelTimes(device, times, None if capability is None else str(capability))


def are_others(measured: str, asked: str) -> bool:
    """Whether two names are those of different devices; where one of them names no model, nobody can tell."""
    one, other = _models(measured), _models(asked)
    return bool(one and other) and one.isdisjoint(other)


def _models(device: str) -> set[str]:
    """What tells a device from others of its maker, as in "NVIDIA A100-SXM4-80GB": words of letters and digits."""
    words = re.findall(r"[a-z0-9]+", device.lower())
    return {word for word in words if re.search(r"[0-9]", word) and not re.fullmatch(r"[0-9]+gb|sxm[0-9]|gddr.*", word)}


def _row(entry: Any, where: str) -> tuple[Format, int, int, int, float, float]:
    if not isinstance(entry, dict) or not entry.keys() >= set(_FIELDS):
        raise DataError(f"{where}: expected {', '.join(_FIELDS)}, found {entry!r:.80}", hint=_HINT)
    try:
        form = Format(entry["format"])
    except ValueError:
        known = ", ".join(Format)
        raise DataError(f"{where}: expected a format of {known}, found {entry['format']!r}", hint=_HINT) from None
    sizes = [entry[name] for name in ("rows", "inputs", "outputs")]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise DataError(f"{where}: expected positive sizes, found {sizes}", hint=_HINT)
    times = [entry[name] for name in ("dense", "sparse")]
    if not all(type(time) in (int, float) and 0 < time < math.inf for time in times):
        raise DataError(f"{where}: expected positive microseconds, found {times}", hint=_HINT)
    return form, *sizes, *map(float, times)
