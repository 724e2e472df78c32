"""What engines take, kept in a JSON file for each device, package and version, so that none is timed twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from secateur.ir.errors import DataError
from secateur.ir.files import write_atomically

_SCHEMA = 1


@dataclass(frozen=True)
class KeptTimes:
    """A file of seconds by the digest of what was timed. `labels` say what they were measured on, and must agree."""

    path: Path
    labels: Mapping[str, str]

    def read(self) -> dict[str, float]:
        """All of them; {} where there is no file yet.

        Raises:
            DataError: the file cannot be read, is no such file, or was measured on something else.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise DataError(f"cannot read the times {self.path}: {error.strerror}", hint="check the path") from error
        except ValueError as error:
            raise self._wrong(f"no JSON: {error}") from error
        found = document if isinstance(document, dict) else {}
        for name, wanted in {"schema": _SCHEMA, **self.labels}.items():
            if found.get(name) != wanted:
                raise self._wrong(f"expected {name} {wanted!r}, found {found.get(name)!r:.80}")
        times = found.get("seconds")
        if not isinstance(times, dict) or not all(map(_is_time, times.values())):
            raise self._wrong("expected positive seconds by digest")
        return {digest: float(time) for digest, time in times.items()}

    def keep(self, digest: str, seconds: float) -> None:
        """Adds one to those that are in the file now.

        Raises:
            DataError: as `read`.
            OutputError: the file cannot be written.
        """
        times = {**self.read(), digest: seconds}
        document = {"schema": _SCHEMA, **self.labels, "seconds": times}
        with write_atomically(self.path) as (temporary,):
            temporary.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _wrong(self, why: str) -> DataError:
        return DataError(f"the times in {self.path} cannot be used: {why}", hint="remove the file: it is written anew")


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
