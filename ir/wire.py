"""Protobuf's wire format, as much of it as is needed to leave weights where they lie.

`strip` reads a serialized ONNX model and hands back the same message, except that every large `raw_data` of a tensor
holds a placeholder that says where the bytes are. What is left is small however large the model is, and goes to the
ordinary protobuf parser. Only length-delimited fields that can hold a tensor, and are large enough to, are entered.
"""

from __future__ import annotations

import struct
from typing import Any

from secateur.ir.errors import ModelError
from secateur.ir.storage import Storage

THRESHOLD = 2048
"""Bytes of `raw_data` above which a tensor stays in the file."""

_WINDOW = 1 << 16
_DEEPEST = 100  # protobuf itself refuses deeper nesting
_PLACE = struct.Struct("<QQ")

# The messages of onnx.proto that can hold a tensor: field number -> what is in it, None for raw_data itself.
_Message = dict[int, Any]
_TENSOR: _Message = {9: None}
_SPARSE: _Message = {1: _TENSOR, 2: _TENSOR}
_ATTRIBUTE: _Message = {5: _TENSOR, 10: _TENSOR, 22: _SPARSE, 23: _SPARSE}
_NODE: _Message = {5: _ATTRIBUTE}
_GRAPH: _Message = {1: _NODE, 5: _TENSOR, 15: _SPARSE}
_ATTRIBUTE |= {6: _GRAPH, 11: _GRAPH}
_FUNCTION: _Message = {7: _NODE, 11: _ATTRIBUTE}
_MODEL: _Message = {7: _GRAPH, 25: _FUNCTION}


def strip(storage: Storage, mark: bytes) -> bytes:
    """The serialized model in `storage` with placeholders, which start with `mark`, for large `raw_data`.

    Raises:
        ModelError: the bytes are no protobuf message.
    """
    return b"".join(_Stripper(storage, mark).message(_MODEL, 0, storage.size))


def placeholder(raw: bytes, mark: bytes) -> tuple[int, int] | None:
    """(offset, length) that a placeholder stands for; None for bytes that are none."""
    if len(raw) == len(mark) + _PLACE.size and raw.startswith(mark):
        offset, length = _PLACE.unpack_from(raw, len(mark))
        return offset, length
    return None


class _Stripper:
    def __init__(self, storage: Storage, mark: bytes) -> None:
        self.storage = storage
        self.mark = mark
        self.window = b""
        self.start = 0

    def message(self, fields: _Message, start: int, end: int, depth: int = 0) -> list[bytes]:
        """The message between two offsets as pieces; one piece if nothing in it had to be replaced."""
        pieces: list[bytes] = []
        kept = position = start
        while position < end:
            field, content, length = self.field(position)
            head, position = position, content + length
            if length > THRESHOLD and field in fields and position <= end and depth < _DEEPEST:
                inner = fields[field]
                if inner is None:
                    replaced = [self.mark + _PLACE.pack(content, length)]
                else:
                    replaced = self.message(inner, content, position, depth + 1)
                size = sum(map(len, replaced))
                pieces += [self.read(kept, head), field_key(field), varint(size), *replaced]
                kept = position
        if position > end:
            raise self.damaged(f"a field that ends {position - end} bytes after what holds it, at offset {kept}")
        pieces.append(self.read(kept, end))
        return pieces

    def field(self, position: int) -> tuple[int, int, int]:
        """The number of the field at an offset, the offset of its content, and the content's length."""
        index = position - self.start
        if not 0 <= index < len(self.window) - 20:
            self.window, self.start, index = self.read(position, position + _WINDOW), position, 0
        window = self.window
        tag, index = self.varint(window, index)
        match tag & 7:
            case 2:
                length, index = self.varint(window, index)
            case 0:
                length = self.varint(window, index)[1] - index
            case 1:
                length = 8
            case 5:
                length = 4
            case wire:
                raise self.damaged(f"a field of wire type {wire} at offset {position}")
        return tag >> 3, self.start + index, length

    def varint(self, window: bytes, index: int) -> tuple[int, int]:
        """The number at an index of the window, and the index after it."""
        if index < len(window) and window[index] < 0x80:
            return window[index], index + 1
        value = shift = 0
        for byte in window[index : index + 10]:
            index += 1
            if byte < 0x80:
                return value | byte << shift, index
            value |= (byte & 0x7F) << shift
            shift += 7
        raise self.damaged(f"no number at offset {self.start + index}")

    def read(self, start: int, end: int) -> bytes:
        return self.storage.read(start, min(end, self.storage.size) - start)

    def damaged(self, found: str) -> ModelError:
        name = self.storage.path or "the given data"
        return ModelError(f"{name} is no ONNX model: found {found}", hint="the file is damaged, cut short, or not ONNX")


def varint(number: int) -> bytes:
    """A number that is not negative, as protobuf writes it: seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field_key(field: int) -> bytes:
    """What announces a length-delimited field; its length and its bytes follow."""
    return varint(field << 3 | 2)
