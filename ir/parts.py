"""A protobuf message as a list of bytes and tensors: lengths are arithmetic, and weights go straight to the file."""

from __future__ import annotations

from secateur.ir.storage import write_all
from secateur.ir.tensor import Tensor
from secateur.ir.wire import field_key, varint

_BLOCK = 1 << 20
_PAGE = 4096


class Parts:
    """Pieces of a serialized message, and how many bytes they make together."""

    __slots__ = ("pieces", "size")

    def __init__(self, *pieces: bytes) -> None:
        self.pieces: list[bytes | Tensor] = list(pieces)
        self.size = sum(map(len, pieces))

    def field(self, number: int, inner: Parts) -> None:
        """Appends a length-delimited field."""
        head = field_key(number) + varint(inner.size)
        self.pieces.append(head)
        self.pieces += inner.pieces
        self.size += len(head) + inner.size

    def tensor_field(self, number: int, tensor: Tensor) -> None:
        """Appends a field that holds the stored bytes of a tensor."""
        size = tensor.nbytes
        self.pieces += (field_key(number) + varint(size), tensor)
        self.size += len(field_key(number)) + len(varint(size)) + size

    def to_bytes(self) -> bytes:
        """All of it in memory."""
        return b"".join(
            part for piece in self.pieces for part in ((piece,) if isinstance(piece, bytes) else piece.chunks())
        )

    def write(self, descriptor: int) -> None:
        """Appends all of it to an open file."""
        waiting: list[bytes] = []
        length = 0
        for piece in self.pieces:
            if isinstance(piece, bytes):
                waiting.append(piece)
                length += len(piece)
                if length < _BLOCK:
                    continue
            write_all(descriptor, b"".join(waiting))
            waiting, length = [], 0
            if not isinstance(piece, bytes):
                piece.copy_to(descriptor)
        write_all(descriptor, b"".join(waiting))


class External:
    """Plans a file of external data: where each tensor goes, aligned so that it can be mapped."""

    def __init__(self, location: str, threshold: int) -> None:
        """Args: the file's name as the model will say it, and the bytes up to which tensors are not for it."""
        self.location = location
        self.threshold = threshold
        self.tensors: dict[object, tuple[Tensor, int]] = {}
        self.size = 0

    def place(self, tensor: Tensor) -> list[tuple[str, str]]:
        """The entries of `external_data` for a tensor; one that several values share is stored once."""
        place = tensor.location()
        key = id(tensor) if place is None else (id(tensor.storage), place[1:])
        if key not in self.tensors:
            size = tensor.nbytes
            grain = _PAGE if size >= _BLOCK else 64
            offset = -(-self.size // grain) * grain
            self.tensors[key] = (tensor, offset)
            self.size = offset + size
        _, offset = self.tensors[key]
        return [("location", self.location), ("offset", str(offset)), ("length", str(tensor.nbytes))]

    def parts(self) -> Parts:
        """The file's content."""
        parts = Parts()
        for tensor, offset in self.tensors.values():
            gap = bytes(offset - parts.size)
            parts.pieces += (gap, tensor)
            parts.size = offset + tensor.nbytes
        return parts
