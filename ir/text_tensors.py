"""Tensors in the text form, both ways: small ones in full and bit for bit, large ones by their digest."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secateur.ir.tensor import Tensor
from secateur.ir.text_lex import Tokens, quote
from secateur.ir.text_types import parse_dense, separated, type_text
from secateur.ir.types import DataType, TensorType

FindConstant: TypeAlias = Callable[[str, TensorType], Tensor | None]
"""Given a digest and the type that the text says, the tensor; None where it is not to be had."""

_SUMMARY_CHUNK = 1 << 20


def is_spelled(tensor: Tensor, elide: int) -> bool:
    """True where a tensor is written in full: few elements, and no long strings among them."""
    return tensor.size <= elide and (tensor.dtype is not DataType.STRING or tensor.nbytes <= 64 * elide)


def tensor_text(tensor: Tensor, elide: int) -> str:
    """`f32[2] [0.5, nan]`, or `f32[64, 3, 7, 7] #a1b2c3d4e5f60718` where it is too large to be written out."""
    text = type_text(TensorType(tensor.dtype, tensor.shape))
    if not is_spelled(tensor, elide):
        text += f" #{tensor.digest}"
    else:
        elements = ", ".join(_spelled(tensor))
        text += f" [{elements}]" if tensor.shape else f" {elements}"
    return f"{text} with {pairs_text(tensor.metadata)}" if tensor.metadata else text


def pairs_text(pairs: Iterable[tuple[str, str]]) -> str:
    """`{"key": "value", …}`."""
    return "{" + ", ".join(f"{quote(key)}: {quote(text)}" for key, text in pairs) + "}"


def parse_pairs(tokens: Tokens) -> tuple[tuple[str, str], ...]:
    """The inverse of `pairs_text`."""

    def pair(tokens: Tokens) -> tuple[str, str]:
        key = tokens.string("a key")
        tokens.expect(":")
        return key, tokens.string("the text of a key")

    tokens.expect("{")
    return tuple(separated(tokens, "}", pair))


def summary(tensor: Tensor) -> str:
    """What a reader wants to know of numbers that are not shown: `|max| 0.83, 12.5% zeros`; empty for strings."""
    if tensor.dtype is DataType.STRING or tensor.size == 0:
        return ""
    flat = tensor.numpy().reshape(-1)
    largest, zeros = 0.0, 0
    wide = np.complex128 if tensor.dtype.numpy.kind == "c" else np.float64
    with np.errstate(invalid="ignore"):  # a signalling NaN is nothing to warn of here
        for start in range(0, flat.size, _SUMMARY_CHUNK):
            piece = flat[start : start + _SUMMARY_CHUNK]
            piece = piece if piece.dtype in (np.float32, np.float64) else piece.astype(wide)
            largest = float(np.maximum(largest, np.abs(piece).max()))
            zeros += piece.size - int(np.count_nonzero(piece))
    share = f", {100 * zeros / flat.size:.3g}% zeros" if zeros else ""
    return f"|max| {largest:.4g}{share}"


def _spelled(tensor: Tensor) -> list[str]:
    flat = np.ascontiguousarray(tensor.numpy().reshape(-1))
    if tensor.dtype is DataType.STRING:
        return [quote(item.decode("utf-8", "surrogateescape")) for item in flat]
    if (part := _PARTS.get(tensor.dtype)) is not None:
        parts = _spelled(Tensor(flat.view(part.numpy)))
        return [f"({real}, {imaginary})" for real, imaginary in zip(parts[::2], parts[1::2], strict=True)]
    if tensor.dtype is DataType.BOOL:
        texts = ["true" if item else "false" for item in flat]
    elif tensor.dtype.is_float:
        texts = [str(item) if flat.dtype.kind == "f" else repr(float(item)) for item in flat]
    else:
        texts = [str(int(item)) for item in flat]
    # What would not come back bit for bit (a NaN with a payload, a byte that is no bool) is written as its bits.
    digits = -(-tensor.dtype.bits // 4)
    codes, returned = _codes(flat, tensor.dtype), _codes(_numbers(texts, tensor.dtype), tensor.dtype)
    same = (codes == returned).tolist()
    return [text if kept else f"0x{int(code):0{digits}x}" for text, code, kept in zip(texts, codes, same, strict=True)]


def _codes(array: NDArray[Any], dtype: DataType) -> NDArray[Any]:
    """The bits of each element as an unsigned number; those that a narrow type leaves unused are zero."""
    unsigned = np.dtype(f"u{array.dtype.itemsize}")
    codes: NDArray[Any] = array.view(unsigned) & unsigned.type((1 << dtype.bits) - 1)
    return codes


def _numbers(texts: list[str], dtype: DataType) -> NDArray[Any]:
    """Elements of a type that is neither string nor complex from their texts: numbers, `true`, or bits in `0x…`.

    Raises:
        ValueError: the type cannot hold one of them.
    """
    bits = {index: int(text, 16) for index, text in enumerate(texts) if text.startswith("0x")}
    plain = ["1" if index in bits else _BOOLS.get(text, text) for index, text in enumerate(texts)]
    if dtype.is_float:
        wide = np.array([float(text) for text in plain], np.float64)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            array = wide.astype(dtype.numpy)
            kept = np.isfinite(array.astype(np.float64)) == [not _IS_SPECIAL(text) for text in plain]
    else:
        signed = dtype.short.startswith("i")
        low, high = (-(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1) if signed else (0, (1 << dtype.bits) - 1)
        low, high = (0, 1) if dtype is DataType.BOOL else (low, high)
        whole = [int(text) for text in plain]
        kept = np.array([low <= number <= high for number in whole], bool)
        clipped = [min(max(number, low), high) for number in whole]
        array = np.array(clipped, np.int64 if signed else np.uint64).astype(dtype.numpy)
    too_wide = [texts[index] for index, code in bits.items() if code >> max(dtype.bits, 1)]
    unfit = [text for text, fits in zip(texts, kept.tolist(), strict=True) if not fits] + too_wide
    if unfit:
        raise ValueError(f"{dtype.short} cannot hold {unfit[0]}")
    codes = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    for index, code in bits.items():
        codes[index] = code
    return array


def parse_tensor(tokens: Tokens, find: FindConstant) -> Tensor:
    """The inverse of `tensor_text`; an elided constant comes from `find`."""
    start = tokens.peek()
    kind = parse_dense(tokens, tokens.of_kind("word", "an element type"))
    shape = tuple(dim for dim in kind.shape or () if isinstance(dim, int) and 0 <= dim < 2**63)
    if shape != kind.shape or kind.dtype is DataType.UNDEFINED:
        raise tokens.error("a constant with an element type and a shape of numbers", start)
    if tokens.peek().kind == "digest":
        tensor = _found(tokens, kind, find)
    else:
        tensor = _parse_elements(tokens, kind.dtype, shape)
    metadata = parse_pairs(tokens) if tokens.take("with") else ()
    if metadata != tensor.metadata:
        tensor = copy.copy(tensor)
        tensor.metadata = metadata
    return tensor


def _found(tokens: Tokens, kind: TensorType, find: FindConstant) -> Tensor:
    token = tokens.next()
    tensor = find(token.text[1:], kind)
    if tensor is None:
        raise tokens.fault(f"the constant {token.text} {kind} is not among those given", token)
    if (tensor.dtype, tensor.shape) != (kind.dtype, kind.shape):
        raise tokens.fault(f"the constant given for {token.text} is {tensor!r}, expected {kind}", token)
    return tensor


def _parse_elements(tokens: Tokens, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
    start = tokens.peek()
    if shape:
        tokens.expect("[")
        elements = list(separated(tokens, "]", lambda tokens: _parse_element(tokens, dtype)))
    else:
        elements = [_parse_element(tokens, dtype)]
    if len(elements) != math.prod(shape):
        raise tokens.fault(f"expected {math.prod(shape)} elements, found {len(elements)}", start)
    if dtype is DataType.STRING:
        return Tensor(np.array([*elements, None], object)[:-1].reshape(shape), dtype)
    part = _PARTS.get(dtype)
    texts = elements if part is None else [text for pair in elements for text in pair]
    try:
        array = _numbers(texts, part or dtype).view(dtype.numpy).reshape(shape)
    except ValueError as error:
        raise tokens.fault(str(error), start) from None
    return Tensor(array, dtype)


def _parse_element(tokens: Tokens, dtype: DataType) -> Any:
    """A string's bytes, the two texts of a complex number, or the text of any other."""
    if dtype is DataType.STRING:
        start = tokens.peek()
        try:
            return tokens.string().encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise tokens.error("a string that stands for bytes (\\udc80 to \\udcff)", start) from None
    if dtype in _PARTS:
        tokens.expect("(")
        real = _parse_number(tokens, dtype)
        tokens.expect(",")
        imaginary = _parse_number(tokens, dtype)
        tokens.expect(")")
        return real, imaginary
    return _parse_number(tokens, dtype)


def _parse_number(tokens: Tokens, dtype: DataType) -> str:
    token = tokens.next()
    fits = _ELEMENT.fullmatch(token.text) if dtype.is_float or dtype in _PARTS else _INTEGER.fullmatch(token.text)
    if not (fits or (dtype is DataType.BOOL and token.text in _BOOLS)):
        raise tokens.error(f"an element of type {dtype.short}", token)
    return token.text


_IS_SPECIAL = re.compile("[+-]?(?:inf|nan)").fullmatch
_PARTS = {DataType.COMPLEX64: DataType.FLOAT32, DataType.COMPLEX128: DataType.FLOAT64}
_BOOLS = {"true": "1", "false": "0"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}|0x[0-9a-f]{1,16}")
_ELEMENT = re.compile(r"[+-]?(?:[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?|inf|nan)|0x[0-9a-f]{1,16}")
