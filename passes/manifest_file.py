"""What a manifest file must look like. Apart, because pydantic is slow to import and only reading needs it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Model(_Strict):
    """Which model the indices belong to."""

    name: str = ""
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")


class Mask(_Strict):
    """One bit for each element, packed, compressed by zlib, in base64."""

    shape: list[NonNegativeInt]
    bits: str


class Scale(_Strict):
    """How a weight is quantized."""

    format: str
    scale: list[Any] | float
    zero_point: list[Any] | float | None = None
    axis: int | None = None
    block: int | None = None


class Document(_Strict):
    """The whole file."""

    version: Literal[1]
    model: Model
    pipeline: str
    exact: bool
    kept: dict[str, dict[NonNegativeInt, list[NonNegativeInt]]]
    dropped: list[str] = []
    masks: dict[str, Mask] = {}
    schemes: dict[str, str] = {}
    scales: dict[str, Scale] = {}


def read(content: bytes) -> Document:
    """The checked content of a manifest file.

    Raises:
        ValueError: names the first entry that is at fault.
    """
    try:
        return Document.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
