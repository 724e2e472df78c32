"""What a model file says beside its graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from secateur.ir.node import Attribute


class FunctionKey(NamedTuple):
    """Names a local function; an op calls it by the same three words."""

    domain: str
    name: str
    overload: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Versions, producer and, for a function body, its formal attributes.

    `extra` holds protobuf fields that nobody here interprets (training info, device configurations), kept as they came.
    """

    ir_version: int = 10
    opsets: tuple[tuple[str, int], ...] = (("", 20),)
    producer: tuple[str, str] = ("", "")
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    extra: bytes = b""
    parameters: tuple[tuple[str, Attribute | None], ...] = field(default=())
    """Formal attributes of a function: name, and default where it has one."""

    def opset(self, domain: str = "") -> int | None:
        """The version imported for a domain, or None."""
        wanted = "" if domain == "ai.onnx" else domain
        for name, version in self.opsets:
            if ("" if name == "ai.onnx" else name) == wanted:
                return version
        return None

    def with_opset(self, domain: str, version: int) -> Header:
        """The same header importing `version` of `domain`."""
        kept = tuple(item for item in self.opsets if item[0] != domain)
        return replace(self, opsets=(*kept, (domain, version)))
