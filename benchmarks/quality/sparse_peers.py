"""Sparsifies one model with onnxsim; runs in the peers' environment.

    python sparse_peers.py "onnxsim sparsegpt|onnxsim wanda" PATTERN MODEL.onnx DATA.npz OUTPUT.onnx

PATTERN is 2:4, another N:M, or a share such as 50%. Prints one line of JSON behind `RESULT`. No part of this project
is imported.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import onnx
from peers import read_data


def main() -> None:
    """The command line."""
    import onnxsim

    method, pattern, path, data, output = sys.argv[1:6]
    tool = {
        "onnxsim sparsegpt": onnxsim.apply_sparsegpt_pruning,
        "onnxsim wanda": onnxsim.apply_wanda_pruning,
    }[method]
    amount: dict[str, Any] = {"sparsity": float(pattern.rstrip("%")) / 100} if pattern.endswith("%") else {}
    if ":" in pattern:
        amount["n"], amount["m"] = map(int, pattern.split(":"))
    start, spent = time.perf_counter(), time.process_time()
    model = tool(onnx.load(path), calibration_data=read_data(data), **amount)
    found = {"seconds": time.perf_counter() - start, "processor": time.process_time() - spent}
    onnx.save(model, output)
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
