"""An ONNX file as protobuf has it, without its weights: for questions that a graph is too much for."""

from __future__ import annotations

import os
import secrets

import onnx
from google.protobuf.message import DecodeError

from secateur.ir import wire
from secateur.ir.errors import ModelError
from secateur.ir.storage import Storage


def skeleton(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model without the numbers of its tensors, which are not read.

    Raises:
        ModelError: the file is missing, or not ONNX.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(wire.strip(Storage(path), secrets.token_bytes(16)))
    except DecodeError as error:
        raise ModelError(f"{path} is no ONNX model: {error}", hint="the file is damaged, or not ONNX") from None
    return model
