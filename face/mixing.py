"""Calibration data from two sets: what a model is for in general, and what it is wanted for."""

from __future__ import annotations

from typing import Unpack

from secateur.calib.batches import Source
from secateur.calib.mixing import mixed
from secateur.compression import Running
from secateur.feeding import ModelLike, graph_of, open_data, refuse_unknown
from secateur.running import runner_of


def mixed_source(
    model: ModelLike, general: object, domain: object, share: float = 0.5, **loading: Unpack[Running]
) -> Source:
    """Two sets as one, to be handed on as data: the domain counts `share`, all else the rest, whatever their sizes.

        data = sc.mixed_source("model.onnx", "wikipedia.npz", "contracts.npz", share=0.3)
        sc.compress("model.onnx", "sparsify{pattern=2:4}", data)

    Which share serves best, `compare` says on either set.

    Args:
        model: a graph, or the path of an ONNX file.
        general: data of all kinds; whatever `secateur.open_source` takes.
        domain: data of the domain.
        share: 0 .. 1; of the sums of squares that layers read, the geometric mean over layers
            (`secateur.calib.mixing.mixed`).
        loading: `batch_size`, `limit` (samples of each set at most) and `runner`, as `compress` has them.

    Raises:
        ValueError: the share is out of range.
        DataError: a set does not fit the model, or nothing but zeros comes of it.
        BackendError: there is no such runner, or it cannot run the model.
    """
    refuse_unknown(loading, Running, "mixed_source")
    graph = graph_of(model)
    batch_size, limit = loading.get("batch_size"), loading.get("limit")
    one, other = (open_data(graph, data, batch_size=batch_size, limit=limit) for data in (general, domain))
    return mixed(graph, one, other, runner_of(loading.get("runner", "onnxruntime")), share)
