"""Devices that are known by name, with the figures that NVIDIA publishes of them, and devices described by the user.

Peaks are those of dense tensor cores with 32-bit accumulation, at boost clock; `fp32` is that of ordinary cores. Where
a sheet gives the figure "with sparsity" alone, half of it stands here. Sheets marked "recalled" were written down from
memory and not read again, or in part only: figures that matter belong into a file of one's own (`find_target`).
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.ir.errors import DataError
from secateur.ir.targets import SPARSE_SINCE, Format, Target

_TERA, _GIGA, _MEBI = 1e12, 1e9, 2**20
_FIELDS = frozenset({"name", "capability", "bandwidth", "peak", "sparse", "cache", "source"})
_EXAMPLE = "name=mine,capability=8.9,bandwidth=300e9,peak.fp16=121e12,sparse.fp16=2"


def _target(
    name: str, capability: tuple[int, int], peaks: str, bandwidth: float, cache: int | None, source: str
) -> Target:
    """Peaks as "fp16 121 int8 242.5" in tera-operations a second, bandwidth in gigabytes a second, cache in MiB."""
    words = peaks.split()
    peak = {Format(one): float(rate) * _TERA for one, rate in zip(words[::2], words[1::2], strict=True)}
    sparse: dict[Format, float] = {}
    if capability >= SPARSE_SINCE:
        sparse = {one: 2.0 for one in peak if one is not Format.FP32}
    size = None if cache is None else cache * _MEBI
    return Target(name, capability, peak, bandwidth * _GIGA, sparse, size, source)


KNOWN: Mapping[str, Target] = {
    "t4": _target("NVIDIA T4", (7, 5), "fp32 8.1 fp16 65 int8 130", 320, 4, "NVIDIA T4 product brief, 2018"),
    "a100": _target(
        "NVIDIA A100 80GB SXM",
        (8, 0),
        "fp32 19.5 tf32 156 fp16 312 bf16 312 int8 624",
        2039,
        40,
        "NVIDIA A100 Tensor Core GPU datasheet, 2021",
    ),
    "a10": _target(
        "NVIDIA A10",
        (8, 6),
        "fp32 31.2 tf32 62.5 fp16 125 bf16 125 int8 250",
        600,
        6,
        "NVIDIA A10 datasheet, 2021 (tensor figures recalled)",
    ),
    "a40": _target(
        "NVIDIA A40",
        (8, 6),
        "fp32 37.4 tf32 74.8 fp16 149.7 bf16 149.7 int8 299.3",
        696,
        6,
        "NVIDIA A40 datasheet, 2021 (cache recalled)",
    ),
    "rtx3090": _target(
        "NVIDIA GeForce RTX 3090",
        (8, 6),
        "fp32 35.6 tf32 35.6 fp16 71 bf16 71 int8 284",
        936,
        6,
        "NVIDIA Ampere GA102 GPU architecture whitepaper, 2021, appendix A (tensor figures recalled)",
    ),
    "orin": _target(
        "NVIDIA Jetson AGX Orin 64GB",
        (8, 7),
        "fp32 5.3 fp16 42.5 int8 85",
        204.8,
        4,
        "NVIDIA Jetson AGX Orin series technical brief, 2022 (GPU alone; fp16 and bandwidth recalled)",
    ),
    "l4": _target(
        "NVIDIA L4",
        (8, 9),
        "fp32 30.3 tf32 60 fp16 121 bf16 121 fp8 242.5 int8 242.5",
        300,
        48,
        "NVIDIA L4 Tensor Core GPU datasheet, 2023",
    ),
    "l40s": _target(
        "NVIDIA L40S",
        (8, 9),
        # The sheet's own dense figure, 362.05 next to 733 with sparsity, does not fit the rest of it.
        "fp32 91.6 tf32 183 fp16 366.5 bf16 366.5 fp8 733 int8 733",
        864,
        None,
        "NVIDIA L40S datasheet, 2023",
    ),
    "rtx4090": _target(
        "NVIDIA GeForce RTX 4090",
        (8, 9),
        "fp32 82.6 tf32 82.6 fp16 165.2 bf16 165.2 fp8 330.3 int8 660.6",
        1008,
        72,
        "NVIDIA Ada GPU architecture whitepaper, 2023, appendix A",
    ),
    "h100": _target(
        "NVIDIA H100 SXM",
        (9, 0),
        "fp32 67 tf32 494.7 fp16 989.4 bf16 989.4 fp8 1978.9 int8 1978.9",
        3350,
        50,
        "NVIDIA H100 Tensor Core GPU datasheet and architecture whitepaper, 2023 (cache recalled)",
    ),
    "h200": _target(
        "NVIDIA H200 SXM",
        (9, 0),
        "fp32 67 tf32 494.7 fp16 989.4 bf16 989.4 fp8 1978.9 int8 1978.9",
        4800,
        50,
        "NVIDIA H200 Tensor Core GPU datasheet, 2024 (cache recalled)",
    ),
    "b200": _target(
        "NVIDIA B200 (HGX)",
        (10, 0),
        "fp32 75 tf32 1100 fp16 2250 bf16 2250 fp8 4500 int8 4500",
        7700,
        None,
        "NVIDIA Blackwell datasheet, 2025",
    ),
    "rtx5090": _target(
        "NVIDIA GeForce RTX 5090",
        (12, 0),
        "fp32 104.8 tf32 104.8 fp16 209.5 bf16 209.5 fp8 419 int8 838",
        1792,
        96,
        "NVIDIA RTX Blackwell GPU architecture whitepaper, 2025 (tf32, bf16 and fp8 recalled)",
    ),
}
"""By the names under which they are asked for."""

BY_CAPABILITY: Mapping[str, str] = {
    "7.5": "t4",
    "8.0": "a100",
    "8.6": "a10",
    "8.7": "orin",
    "8.9": "l4",
    "9.0": "h100",
    "10.0": "b200",
    "12.0": "rtx5090",
}
"""The device that stands for a compute capability where nothing else is said."""


def find_target(text: str) -> Target:
    """A device by its name ("l4"), its compute capability ("8.9"), a TOML or JSON file, or written out.

    A description names `capability`, `bandwidth` (bytes a second), `peak` (operations a second for each format) and,
    if it likes, `name`, `sparse` (a factor from 1 to 2 for each format), `cache` (bytes) and `source`; on one line:
    "name=mine,capability=8.9,bandwidth=300e9,peak.fp16=121e12,sparse.fp16=2".

    Raises:
        DataError: there is no such device or file, or the description lacks something; says what.
    """
    wanted = text.strip().lower().replace(" ", "").removeprefix("nvidia").removeprefix("geforce")
    wanted = re.sub(r"sm_?(\d+)(\d)", r"\1.\2", wanted)
    if (name := BY_CAPABILITY.get(wanted, wanted)) in KNOWN:
        return KNOWN[name]
    if text.endswith((".toml", ".json")):
        return _described(_read(text), text)
    if "=" in text:
        return _described(_parsed(text), "the target")
    close = difflib.get_close_matches(wanted, [*KNOWN, *BY_CAPABILITY], n=1)
    raise DataError(
        f"no target {text!r} is known" + (f"; did you mean {close[0]}?" if close else ""),
        hint=f"give one of {', '.join(KNOWN)}, a compute capability, a .toml or .json file, or {_EXAMPLE}",
    )


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        content = Path(path).read_text(encoding="utf-8")
        return json.loads(content) if os.fspath(path).endswith(".json") else tomllib.loads(content)
    except OSError as error:
        raise DataError(f"cannot read the target {path}: {error.strerror}", hint="check the path") from error
    except ValueError as error:
        raise DataError(f"the target {path} does not parse: {error}", hint="see a TOML or JSON manual") from error


def _parsed(text: str) -> dict[str, Any]:
    """One line of key=value; a dot makes a table."""
    found: dict[str, Any] = {}
    for entry in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in entry.partition("="))
        table, _, name = key.partition(".")
        into = found.setdefault(table, {}) if name else found
        if not equals or not isinstance(into, dict) or (name or key) in into:
            raise DataError(f"cannot read {entry!r} in the target", hint=f"write it as {_EXAMPLE}")
        into[name or key] = value
    return found


def _described(found: Any, where: str) -> Target:
    if not isinstance(found, dict):
        raise DataError(f"{where}: expected a table, found {type(found).__name__}", hint=f"write it like {_EXAMPLE}")
    if unknown := sorted(found.keys() - _FIELDS):
        raise DataError(
            f"{where} has an unknown field {unknown[0]!r}", hint=f"its fields are {', '.join(sorted(_FIELDS))}"
        )
    for name in ("capability", "bandwidth", "peak"):
        if name not in found:
            raise DataError(f"{where} does not say its {name}", hint=f"write it like {_EXAMPLE}")
    cache = found.get("cache")
    try:
        return Target(
            name=str(found.get("name", Path(where).stem)),
            capability=_capability(found["capability"], where),
            peak=_rates(found["peak"], where, "peak"),
            bandwidth=_number(found["bandwidth"], where, "bandwidth"),
            sparse=_rates(found.get("sparse", {}), where, "sparse"),
            cache=None if cache is None else round(_number(cache, where, "cache")),
            source=str(found.get("source", "figures given by the user")),
        )
    except ValueError as error:
        raise DataError(f"{where} is no target: {error}", hint=f"write it like {_EXAMPLE}") from error


def _capability(value: Any, where: str) -> tuple[int, int]:
    major, dot, minor = str(value).partition(".")
    if not (major.isdecimal() and (minor.isdecimal() or not dot)):
        raise DataError(f"{where}: expected a capability such as 8.9, found {value!r}", hint="give it as major.minor")
    return int(major), int(minor or 0)


def _rates(value: Any, where: str, name: str) -> dict[Format, float]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a table of formats in {name}, found {value!r}", hint=f"as in {_EXAMPLE}")
    return {_format(one, where): _number(rate, where, f"{name}.{one}") for one, rate in value.items()}


def _format(name: str, where: str) -> Format:
    if name not in list(Format):
        raise DataError(f"{where}: there is no format {name!r}", hint=f"the formats are {_names(Format)}")
    return Format(name)


def _number(value: Any, where: str, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: expected a number for {name}, found {value!r}", hint=f"as in {_EXAMPLE}")
    return number


def _names(formats: Iterable[Format]) -> str:
    return ", ".join(formats)
