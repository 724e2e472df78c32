"""Models as onnxruntime's own quantizers write them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from secateur.ir import Graph, onnx_read

Feeds = Mapping[str, Any]


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def static(graph: Graph, folder: Path, feeds: Sequence[Feeds], style: str, *, per_channel: bool = False) -> Graph:
    """Quantized by ranges, `style` QOperator or QDQ; uint8 activations around zero points, which is the default."""
    with _quiet():
        quantize_static(
            _saved(graph, folder),
            folder / "static.onnx",
            _Reader(feeds),
            quant_format=QuantFormat[style],
            per_channel=per_channel,
            activation_type=QuantType.QUInt8,
        )
    return onnx_read.load(folder / "static.onnx")


def dynamic(graph: Graph, folder: Path, *, weight: str = "QInt8", per_channel: bool = False) -> Graph:
    """Weights quantized; scales of activations are computed as the model runs."""
    with _quiet():
        quantize_dynamic(
            _saved(graph, folder), folder / "dynamic.onnx", weight_type=QuantType[weight], per_channel=per_channel
        )
    return onnx_read.load(folder / "dynamic.onnx")


def blocks(graph: Graph, folder: Path, *, bits: int = 4, symmetric: bool = True, style: str = "QOperator") -> Graph:
    """Weights of products in blocks of 16 numbers of few bits (MatMulNBits, or DequantizeLinear in blocks)."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    with _quiet():
        config = DefaultWeightOnlyQuantConfig(
            block_size=16, is_symmetric=symmetric, bits=bits, quant_format=QuantFormat[style]
        )
        quantizer = MatMulNBitsQuantizer(onnx.load(_saved(graph, folder)), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(folder / "blocks.onnx"), False)
    return onnx_read.load(folder / "blocks.onnx")


def _saved(graph: Graph, folder: Path) -> Path:
    """The model without types of values inside, some of which the quantizers contradict."""
    path = folder / "float.onnx"
    graph.save(path)
    proto = onnx.load(path)
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
