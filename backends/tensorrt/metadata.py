"""What lies beside an engine: from which model it was made, how, with what, and what is known of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from secateur.backends.tensorrt.report import BuildReport
from secateur.ir import Graph
from secateur.ir.errors import DataError

FORMAT = 1
"""Changes when a field changes its meaning."""


def metadata_path(engine: Path) -> Path:
    """`model.engine` -> `model.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


def metadata(report: BuildReport, graph: Graph | None, checksums: dict[str, str], manifest: Path | None) -> str:
    """The document, as JSON; the same for the same model, options and versions.

    Args:
        report: of the engine.
        graph: the model; None where it could not be read here.
        checksums: SHA-256 of the model and of its external data, the model first.
        manifest: what was done to the model before.

    Raises:
        DataError: there is no such manifest.
    """
    plain = report.to_json()
    header = None if graph is None else graph.header
    opsets = None if header is None else {domain or "ai.onnx": number for domain, number in header.opsets}
    document = {
        "format": FORMAT,
        "engine": {"file": report.engine.name, "bytes": report.bytes, "sha256": report.sha256},
        "model": {"file": report.model.name, "sha256": next(iter(checksums.values())), "files": checksums},
        "manifest": None if manifest is None else {"file": manifest.name, "sha256": _digest(manifest)},
        "versions": {
            "secateur": package_version(),
            report.flavor: report.version,
            "onnx_ir": None if header is None else header.ir_version,
            "onnx_opsets": opsets,
        },
        "flags": list(report.flags),
        **{name: plain[name] for name in ("targets", "profiles", "options", "precision", "weights", "memory")},
        "kernels": kernel_types(report),
        "notes": list(report.notes),
    }
    return json.dumps(document, indent=1) + "\n"


def kernel_types(report: BuildReport) -> dict[str, int]:
    """How many kernels there are of each kind and type: {"gemm Int8": 12}."""
    counts = Counter(f"{layer.kind} {', '.join(layer.reads)}".strip() for layer in report.layers)
    return dict(sorted(counts.items()))


def package_version(name: str = "secateur") -> str:
    """Of an installed package; "unknown" where there is none of that name."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read the manifest {path}: {error.strerror}", hint="check the path") from error
