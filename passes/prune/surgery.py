"""Removing channels from everything that has one entry a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from secateur.ir.graph import Graph
from secateur.ir.node import Op, Value
from secateur.ir.rules.channels import Place
from secateur.ir.types import TensorType
from secateur.passes.layers.matrix import replace_constant
from secateur.passes.manifest import Manifest
from secateur.passes.prune.chains import Chain

Indices = NDArray[np.int64]


def remove_channels(graph: Graph, chain: Chain, kept: Sequence[int] | Indices, manifest: Manifest) -> None:
    """Keeps the channels `kept` (sorted indices into the present ones) of a chain, and notes it in the manifest.

    Constants that other ops read too are copied first, so that nothing outside the chain changes.
    """
    indices = np.asarray(kept, dtype=np.int64)
    producer = chain.producer
    _slice(graph, producer.op, producer.port, producer.produced, indices, manifest)
    if producer.bias is not None and producer.bias_port is not None:
        _slice_bias(graph, producer.op, producer.bias_port, indices, manifest)
    for op, carried in chain.carriers:
        for port, axis in carried.parameters:
            _slice(graph, op, port, axis, _spread(indices, carried.stride), manifest)
        if carried.group:
            graph.set_attribute(op, "group", len(indices))
    for consumer in chain.consumers:
        use = consumer.use
        _slice(graph, use.op, use.port, use.contracted, _spread(indices, consumer.stride), manifest)
    for value, place in chain.places:
        _retype(value, place, len(indices))


def _retype(value: Value, place: Place, channels: int) -> None:
    if isinstance(value.type, TensorType) and value.type.shape is not None:
        shape = list(value.type.shape)
        shape[place.axis] = channels * place.stride
        value.type = replace(value.type, shape=tuple(shape))


def _slice(graph: Graph, op: Op, port: int, axis: int, indices: Indices, manifest: Manifest) -> None:
    value = op.inputs[port]
    assert value is not None
    assert value.const is not None
    changed = replace_constant(graph, op, port, np.take(value.const.numpy(), indices, axis))
    manifest.keep(changed.name, axis, indices.tolist())


def _slice_bias(graph: Graph, op: Op, port: int, indices: Indices, manifest: Manifest) -> None:
    bias = op.inputs[port]
    if bias is not None and bias.const is not None and bias.const.shape and bias.const.shape[-1] != 1:
        _slice(graph, op, port, len(bias.const.shape) - 1, indices, manifest)


def _spread(indices: Indices, stride: int) -> Indices:
    """Channel indices to the indices of all entries that belong to them."""
    return (indices[:, None] * stride + np.arange(stride)).reshape(-1)
