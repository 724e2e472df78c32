"""Fails when a build is worse than the one that was committed: error, sizes and, where they were measured, latencies.

    secateur build --json > report.json
    python gate.py report.json baseline.json            # exit code 1 and one line for each figure that got worse
    python gate.py report.json baseline.json --update   # takes the report as the new baseline

A figure may be worse by its tolerance, as a share of the baseline. A figure that only one of the two files has is named
and counts as worse: it was not compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TOLERANCES = {
    "error": 0.05,
    "cosine": 0.001,
    "macs": 0.0,
    "parameters": 0.0,
    "bytes": 0.02,
    "engine": 0.05,
    "latency": 0.1,
}
"""By the first word of a figure's name."""
HIGHER_IS_BETTER = frozenset({"cosine"})


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """One number by name from what `secateur build --json` prints for a build file."""
    found = report["figures"]
    names = ("error", "cosine", "macs", "parameters", "bytes")
    flat = {name: float(found[name]) for name in names if found[name] is not None}
    flat |= {f"engine {name}, bytes": float(size) for name, size in found["engine_bytes"].items()}
    flat |= {f"latency {name}, ms": float(time) for name, time in found["latency_ms"].items()}
    return flat


def worse(now: Mapping[str, float], before: Mapping[str, float]) -> Iterator[str]:
    """A line for each figure that is worse than it may be."""
    for name in sorted(now.keys() | before.keys()):
        if name not in now or name not in before:
            yield f"{name}: only in the {'baseline' if name in before else 'report'}"
            continue
        kind = name.partition(" ")[0]
        share = -TOLERANCES[kind] if kind in HIGHER_IS_BETTER else TOLERANCES[kind]
        limit = before[name] * (1 + share)
        if now[name] < limit if kind in HIGHER_IS_BETTER else now[name] > limit:
            yield f"{name}: {now[name]:.6g}, was {before[name]:.6g}, {limit:.6g} is allowed"


def main() -> int:
    """0 where nothing got worse, 1 where something did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("--update", action="store_true", help="write the baseline instead")
    asked = parser.parse_args()
    now = figures(json.loads(asked.report.read_text()))
    if asked.update:
        asked.baseline.write_text(json.dumps(now, indent=1) + "\n")
        return 0
    lines = list(worse(now, json.loads(asked.baseline.read_text())))
    for line in lines:
        print(f"worse: {line}", file=sys.stderr)
    print(f"{len(now)} figures, {len(lines)} worse than the baseline")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
