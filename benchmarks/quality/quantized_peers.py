"""Quantizes one model with another tool; runs in that tool's environment.

    python quantized_peers.py ROW FORMAT MODEL.onnx DATA.npz OUTPUT.onnx [KIND] [unprepared]

ROW is one of `TOOLS`, FORMAT int8, fp8 or int4, KIND `transformer` for models that are one: some tools want to know.
`unprepared` leaves out what onnxruntime wants to have done first, which takes as long again.
Prints one line of JSON behind `RESULT`. No part of this project is imported.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers import Unable, read_data

BLOCK = 128


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    form: str
    model: str
    batches: list[dict[str, np.ndarray]]
    output: str
    is_transformer: bool
    is_prepared: bool

    def single(self) -> list[dict[str, np.ndarray]]:
        """The same data, one sample at a time."""
        return [
            {name: array[at : at + 1] for name, array in feeds.items()}
            for feeds in self.batches
            for at in range(len(next(iter(feeds.values()))))
        ]


class Reader:
    """Batches in the form that onnxruntime asks for."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self.batches = batches
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None at the end."""
        return next(self.rest, None)

    def get_first(self) -> dict[str, np.ndarray]:
        """The first batch, whatever was read."""
        return self.batches[0]

    def rewind(self) -> None:
        """Back to the first batch."""
        self.rest = iter(self.batches)


def onnxruntime_default(job: Job) -> None:
    """`quantize_static` with no options but the format, behind the preparation that its documentation asks for."""
    _quantize_static(job, {}, per_channel=False)


def onnxruntime_tensorrt(job: Job) -> None:
    """`quantize_static` as TensorRT takes it: a scale for each channel, no zero points, biases in float."""
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    _quantize_static(job, options, per_channel=True)


def _quantize_static(job: Job, options: dict[str, Any], per_channel: bool) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if job.form == "int4":
        _weights_only(job)
        return
    kind, method = QuantType.QInt8, CalibrationMethod.MinMax
    if job.form == "fp8":
        kind, method = QuantType.QFLOAT8E4M3FN, CalibrationMethod.Distribution
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, "prepared.onnx"))
        try:
            if job.is_prepared:
                quant_pre_process(job.model, prepared, skip_symbolic_shape=job.is_transformer)
        except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # Whatever it cannot prepare, it can often quantize.
            print(f"not prepared: {error}", file=sys.stderr)
        if not Path(prepared).is_file():
            prepared = job.model
        quantize_static(
            prepared,
            job.output,
            Reader(job.batches),
            per_channel=per_channel,
            activation_type=kind,
            weight_type=kind,
            calibrate_method=method,
            extra_options=options,
        )


def _weights_only(job: Job) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    how = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, quant_format=QuantFormat.QDQ, bits=4)
    tool = MatMulNBitsQuantizer(onnx.load(job.model), algo_config=how)
    tool.process()
    tool.model.save_model_to_file(job.output)


def nncf_default(job: Job) -> None:
    """`nncf.quantize` with its defaults; weights only by `compress_weights` with its own scale estimation."""
    import nncf

    data, model = nncf.Dataset(job.batches), onnx.load(job.model)
    if job.form == "int4":
        mode = nncf.CompressWeightsMode.INT4_SYM
        fitting = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        options: dict[str, Any] = {"mode": mode, "group_size": BLOCK, "all_layers": True, "dataset": data}
        options["advanced_parameters"] = fitting
        onnx.save(nncf.compress_weights(model, scale_estimation=True, **options), job.output)
        return
    if job.form == "fp8":
        raise Unable("has no FP8 for ONNX models")
    kind = nncf.ModelType.TRANSFORMER if job.is_transformer else None
    onnx.save(nncf.quantize(model, data, model_type=kind, subset_size=len(job.batches)), job.output)


def modelopt_default(job: Job) -> None:
    """`modelopt.onnx.quantization.quantize` with its defaults, the rest of the model in float32."""
    from modelopt.onnx.quantization import quantize

    method = {"int8": "entropy", "fp8": "entropy", "int4": "awq_clip"}[job.form]
    _modelopt(job, quantize, method)


def modelopt_max(job: Job) -> None:
    """The same with ranges that clip nothing."""
    from modelopt.onnx.quantization import quantize

    _modelopt(job, quantize, {"int8": "max", "fp8": "max", "int4": "rtn_dq"}[job.form])


def _modelopt(job: Job, quantize: Callable[..., None], method: str) -> None:
    given: dict[str, Any] = {"calibration_data_reader": Reader(job.single() if job.is_transformer else job.batches)}
    quantize(
        job.model,
        quantize_mode=job.form,
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=job.output,
        log_level="ERROR",
        **given,
    )


def aimet_default(job: Job) -> None:
    """`QuantizationSimModel` with its defaults (`tf_enhanced` ranges), written as Q/DQ."""
    from aimet_onnx import QuantizationSimModel, compute_encodings, int8

    if job.form != "int8":
        raise Unable(f"has no {job.form} in its Q/DQ export")
    simulated = QuantizationSimModel(onnx.load(job.model), param_type=int8, activation_type=int8)
    with compute_encodings(simulated):
        for feeds in job.batches:
            simulated.session.run(None, feeds)
    onnx.save(simulated.to_onnx_qdq(), job.output)


TOOLS: Mapping[str, Callable[[Job], None]] = {
    "onnxruntime": onnxruntime_default,
    "onnxruntime, for TensorRT": onnxruntime_tensorrt,
    "NNCF": nncf_default,
    "modelopt": modelopt_default,
    "modelopt, max": modelopt_max,
    "aimet-onnx": aimet_default,
}


def main() -> None:
    """The command line."""
    row, form, model, data, output, *kind = sys.argv[1:]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    job = Job(form, model, read_data(data), output, "transformer" in kind, "unprepared" not in kind)
    start, spent = time.perf_counter(), time.process_time()
    try:
        TOOLS[row](job)
    except Unable as reason:
        print("RESULT " + json.dumps({"skipped": str(reason)}))
        return
    found = {"seconds": time.perf_counter() - start, "processor": time.process_time() - spent}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps({**found, "peak_mb": peak}))


if __name__ == "__main__":
    main()
