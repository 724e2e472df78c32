"""The manifest: what was kept of which weight, so that the same compression can be replayed on another checkpoint."""

from __future__ import annotations

import base64
import copy
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secateur.ir.errors import DataError
from secateur.ir.files import write_atomically
from secateur.ir.masked import Bits
from secateur.passes.packed_masks import PackedMasks

VERSION = 1


@dataclass(frozen=True)
class Scale:
    """How a weight is quantized: `real = (code - zero_point) * scale`, one pair for each index (or block) of `axis`."""

    format: str
    scale: NDArray[Any]
    zero_point: NDArray[Any] | None = None
    axis: int | None = None
    block: int | None = None


@dataclass
class Manifest:
    """What a pipeline kept of each weight of the original model.

    `kept[name][axis]` are indices into the axis of the *original* weight, in the order in which they are in the
    compressed one. `exact` says that the compressed weights are nothing but these slices, masked; a pass that fits
    new numbers (least squares, rounding by error compensation) sets it to False.
    """

    model: str = ""
    sha256: str = ""
    pipeline: str = ""
    exact: bool = True
    kept: dict[str, dict[int, NDArray[np.int64]]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    """Blocks that went whole, as `drop-blocks` names them."""
    masks: PackedMasks = field(default_factory=PackedMasks)
    """True where an element of the compressed weight stays."""
    schemes: dict[str, str] = field(default_factory=dict)
    """What weights are marked with as sparse (`secateur.ir.sparsity_scheme`): `2:4 axis 1`."""
    scales: dict[str, Scale] = field(default_factory=dict)

    def keep(self, name: str, axis: int, indices: ArrayLike) -> None:
        """Notes that only these indices of the weight, as it is now, stay along an axis (counted from 0).

        Successive prunings compose, and a mask of the weight is pruned along.

        Raises:
            ValueError: an index lies outside what the last pruning left.
        """
        now = np.asarray(indices, np.int64)
        if now.ndim != 1 or axis < 0:
            raise ValueError(f"{name!r}: indices must be a list along an axis >= 0, got {now.shape} along {axis}")
        axes = self.kept.setdefault(name, {})
        before = axes.get(axis)
        if now.size and (now.min() < 0 or (before is not None and now.max() >= len(before))):
            left = "any" if before is None else len(before)
            raise ValueError(f"{name!r}, axis {axis}: index {now.min()}..{now.max()} of {left} left")
        axes[axis] = now.copy() if before is None else before[now]
        if name in self.masks:
            self.masks[name] = self.masks[name].take(now, axis)

    def mask(self, name: str, mask: ArrayLike | Bits) -> None:
        """Notes which elements of the weight, as it is now, stay (True); masks of one weight are combined."""
        if name not in self.masks:
            self.masks[name] = mask if isinstance(mask, Bits) else np.asarray(mask, np.bool_)
            return
        now = mask.unpacked() if isinstance(mask, Bits) else np.asarray(mask, np.bool_)
        self.masks[name] = self.masks[name] & now

    def scale(self, name: str, scale: Scale) -> None:
        """Notes how the weight, as it is now, is quantized; the last word counts."""
        self.scales[name] = scale

    def forget(self, names: Iterable[str]) -> None:
        """Notes that these weights are no more: they went with something else, as the weights of an expert do."""
        for name in names:
            self.kept.pop(name, None)
            self.masks.pop(name, None)
            self.schemes.pop(name, None)
            self.scales.pop(name, None)

    def copy(self) -> Manifest:
        """A copy that can be changed without changing this one (the arrays are never written to)."""
        twin = copy.copy(self)
        twin.kept = {name: dict(axes) for name, axes in self.kept.items()}
        twin.schemes = dict(self.schemes)
        twin.masks, twin.scales, twin.dropped = self.masks.copy(), dict(self.scales), list(self.dropped)
        return twin

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON's own types, weights and axes sorted."""
        kept = {
            name: {str(axis): axes[axis].tolist() for axis in sorted(axes)} for name, axes in sorted(self.kept.items())
        }
        document: dict[str, Any] = {
            "version": VERSION,
            "model": {"name": self.model, "sha256": self.sha256},
            "pipeline": self.pipeline,
            "exact": self.exact,
            "kept": kept,
        }
        if self.dropped:
            document["dropped"] = self.dropped
        if self.masks:
            document["masks"] = {name: _pack(self.masks.bits(name)) for name in sorted(self.masks)}
        if self.schemes:
            document["schemes"] = dict(sorted(self.schemes.items()))
        if self.scales:
            document["scales"] = {name: _scale_to_json(scale) for name, scale in sorted(self.scales.items())}
        return document

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with write_atomically(path) as (temporary,):
            temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote.

        Raises:
            DataError: the file cannot be read or is no manifest; says which entry is at fault.
        """
        from secateur.passes.manifest_file import read

        try:
            document = read(Path(path).read_bytes())
            return cls(
                model=document.model.name,
                sha256=document.model.sha256,
                pipeline=document.pipeline,
                exact=document.exact,
                kept={
                    name: {axis: np.array(indices, np.int64) for axis, indices in axes.items()}
                    for name, axes in document.kept.items()
                },
                dropped=document.dropped,
                masks=PackedMasks.of({name: _unpack(mask.shape, mask.bits) for name, mask in document.masks.items()}),
                schemes=document.schemes,
                scales={name: _scale_from_json(scale.model_dump()) for name, scale in document.scales.items()},
            )
        except OSError as error:
            raise DataError(f"cannot read the manifest {path}: {error.strerror}", hint="check the path") from error
        except (ValueError, zlib.error) as error:
            raise DataError(
                f"{path} is no manifest: {error}", hint="use the manifest that the run wrote, unchanged"
            ) from error


def _pack(mask: Bits) -> Mapping[str, Any]:
    squeezed = zlib.compress(mask.packed.tobytes(), 6)
    return {"shape": list(mask.shape), "bits": base64.b64encode(squeezed).decode()}


def _unpack(shape: Sequence[int], bits: str) -> Bits:
    packed = np.frombuffer(zlib.decompress(base64.b64decode(bits, validate=True)), np.uint8)
    count = math.prod(shape)
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"a mask of {len(packed)} bytes for shape {list(shape)}")
    return Bits(tuple(shape), packed)


def _scale_from_json(entry: Mapping[str, Any]) -> Scale:
    zero_point = None if entry["zero_point"] is None else np.array(entry["zero_point"])
    return Scale(entry["format"], np.array(entry["scale"], np.float32), zero_point, entry["axis"], entry["block"])


def _scale_to_json(scale: Scale) -> Mapping[str, Any]:
    zero_point: Sequence[Any] | None = None if scale.zero_point is None else scale.zero_point.tolist()
    return {
        "format": scale.format,
        "scale": np.asarray(scale.scale, np.float64).tolist(),
        "zero_point": zero_point,
        "axis": scale.axis,
        "block": scale.block,
    }
