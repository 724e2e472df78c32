"""Writes the data that `secateur.toml` names: `data/calib.npz` to calibrate on, `data/held_out.npz` to judge by.

The images are Fashion-MNIST's; `../fashion_mnist/data.py` says where they come from.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CALIBRATION, HELD_OUT = 256, 512


def main() -> None:
    """Does it; the same files every time."""
    sys.path.insert(0, str(HERE.parent / "fashion_mnist"))
    data = importlib.import_module("data")
    folder = HERE / "data"
    folder.mkdir(exist_ok=True)
    np.savez(folder / "calib.npz", image=data.calibration(CALIBRATION, seed=0))
    images, _ = data.load("test")
    np.savez(folder / "held_out.npz", image=images[:HELD_OUT])


if __name__ == "__main__":
    main()
