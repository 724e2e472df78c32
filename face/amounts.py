"""Amounts as people write them: "4 MB", "1GiB", "0.5" of something."""

from __future__ import annotations

import re

from secateur.ir.errors import TextError

_UNITS: dict[str, int] = {
    "": 1,
    "B": 1,
    **{f"{unit}{end}": 1000**power for power, unit in enumerate("kMGT", 1) for end in ("", "B")},
}
_UNITS |= {f"{unit}iB": 1024**power for power, unit in enumerate("KMGT", 1)}
_KNOWN = {unit.lower(): factor for unit, factor in _UNITS.items()}
_AMOUNT = re.compile(r"\s*(?P<number>\d+(?:[._]?\d+)*(?:e\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")


def amount_of(text: str | float) -> float:
    """A number, with k, M, G, T for thousands, or Ki, Mi, … with B: "1.5 MB" -> 1500000, "1GiB" -> 1073741824.

    Raises:
        TextError: it is none.
    """
    if not isinstance(text, str):
        return float(text)
    match = _AMOUNT.fullmatch(text)
    if match is None or match["unit"].lower() not in _KNOWN:
        raise TextError(f"{text!r} is no amount", hint='write it as 4000000, "4 MB" or "1 GiB"')
    return float(match["number"].replace("_", "")) * float(_KNOWN[match["unit"].lower()])


def bytes_of(text: str | int) -> int:
    """An amount that is a whole number.

    Raises:
        TextError: it is none, or nothing.
    """
    found = amount_of(text)
    if found < 1 or found != int(found):
        raise TextError(f"{text!r} is no number of bytes", hint='write it as 4000000, "4 MB" or "1 GiB"')
    return int(found)
