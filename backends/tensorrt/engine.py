"""From an ONNX file to an engine on disk."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from secateur.backends.tensorrt import messages
from secateur.backends.tensorrt.errors import BuildCancelled, TargetError
from secateur.backends.tensorrt.failures import build_failure
from secateur.backends.tensorrt.layers import layers_from_log
from secateur.backends.tensorrt.network import Session, open_session, require_supported, run_in_worker
from secateur.backends.tensorrt.options import BuildOptions, check_against
from secateur.backends.tensorrt.profiles import add_profiles, check_profiles, network_inputs
from secateur.backends.tensorrt.progress import Monitor
from secateur.backends.tensorrt.quantized import computed_in_float, quantized_nodes
from secateur.backends.tensorrt.report import BuildReport
from secateur.backends.tensorrt.shim import Trt, load
from secateur.ir.errors import OutputError
from secateur.ir.files import write_atomically


def build(
    path: str | os.PathLike[str], output: str | os.PathLike[str], options: BuildOptions | None = None
) -> BuildReport:
    """Builds the ONNX model at `path` into a TensorRT engine at `output`.

    TensorRT-RTX gives the same bytes for the same model and options; `tensorrt` times kernels and may not. Whatever
    goes wrong, `output` is what it was before. An interrupt takes effect at the builder's next step, and is raised when
    the builder has let go; compiling all kernels is one step, which TensorRT cannot be made to leave.

    Raises:
        BackendUnavailable: there is no TensorRT that can build here.
        TargetError: a compute capability is unknown, or has no hardware for a data type of the model.
        ModelError: the file holds no model that can be read.
        UnsupportedModel: operators that TensorRT does not take, each by name.
        ProfileError: inputs of no fixed size without profile, or a profile that does not fit them.
        BuildFailed: the builder gave up; its reasons are in the message.
        BuildCancelled: the progress callback said False. What it raises is raised here instead.
        OutputError: the engine cannot be written.
    """
    options = options or BuildOptions()
    trt = load(options.flavor)
    check_against(trt, options)
    if Path(output).exists() and Path(path).exists() and os.path.samefile(path, output):
        raise OutputError(f"cannot write {output}: it is the model itself", hint="choose another output path")
    monitor = Monitor(options.progress)
    try:
        return run_in_worker(lambda: _build(trt, Path(path), Path(output), options, monitor), monitor.cancel)
    except BuildCancelled:
        if monitor.error is not None:
            raise monitor.error from None
        raise


def _build(trt: Trt, path: Path, output: Path, options: BuildOptions, monitor: Monitor) -> BuildReport:
    started = time.perf_counter()
    session = open_session(trt)
    require_supported(session, path)
    inputs, quantized = network_inputs(session.network), quantized_nodes(session.network)
    check_profiles(inputs, options.profiles)
    config = _configure(session, options)
    add_profiles(session.builder, config, inputs, options.profiles)
    monitor.attach(trt, config)
    with write_atomically(output) as (temporary,):
        with temporary.open("wb") as file:
            sink = _Sink(file)
            made = _serialize(session, config, sink, stream=options.stream_to_file and trt.streams)
        if monitor.cancelled:
            raise BuildCancelled(f"building {path} was stopped; {output} was not written", log=session.log)
        if not made:
            raise build_failure(session, path)
    layers, unknown = layers_from_log(session.log)
    report = BuildReport(
        model=path,
        engine=output,
        bytes=sink.bytes,
        sha256=sink.digest.hexdigest(),
        seconds=time.perf_counter() - started,
        flavor=trt.flavor,
        version=trt.version,
        targets=options.compute_capabilities,
        profiles=options.profiles,
        layers=layers,
        quantized_in_float=None if unknown else computed_in_float(quantized, layers),
        memory=messages.memory_figures(session.log),
        warnings=messages.warnings(session.log),
        sparsity_lines=messages.sparsity_lines(session.log),
        notes=(unknown,) if unknown else (),
    )
    return replace(report, notes=(*report.notes, *_notes(trt, options, report)))


def _configure(session: Session, options: BuildOptions) -> Any:
    trt, module = session.trt, session.trt.module
    config = session.builder.create_builder_config()
    # Only at this level does the builder write its layer table; the engine does not grow by it.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(trt.compute_capability(name), index):
                raise TargetError(f"{trt.flavor} {trt.version} refuses compute capability {name}", log=session.log)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.sparse_weights:
        config.set_flag(module.BuilderFlag.SPARSE_WEIGHTS)
    return config


def _serialize(session: Session, config: Any, sink: _Sink, *, stream: bool) -> bool:
    """Whether there is an engine, and all of it in the sink."""
    if stream:
        writer = session.trt.implement("IStreamWriter", write=sink.write)
        made = session.builder.build_serialized_network_to_stream(session.network, config, writer)
    else:
        engine = session.builder.build_serialized_network(session.network, config)
        made = engine is not None
        if engine is not None:
            sink.write(memoryview(engine))
    # The builder takes no notice of a writer that could not write.
    sink.check()
    return bool(made) and sink.bytes > 0


def _notes(trt: Trt, options: BuildOptions, report: BuildReport) -> Iterator[str]:
    if report.quantized_in_float:
        count = len(report.quantized_in_float)
        cause = "; naming compute capability 7.5 is one cause" if "7.5" in report.targets else ""
        yield f"{count} quantized node(s) are computed in float: {', '.join(report.quantized_in_float[:8])}{cause}"
    if options.sparse_weights and not report.sparsity_lines:
        yield "sparse tactic use unknown: the builder says nothing of sparsity"
    if trt.compute_capabilities and not options.compute_capabilities:
        yield "no compute capability was named: the model's data types were checked against no GPU"
    if options.stream_to_file and not trt.streams:
        yield "the engine was held in memory as a whole: this package cannot write it as it is made"
    if options.progress is not None and not trt.reports_progress:
        yield "this package reports no progress, and could not have been stopped"


class _Sink:
    """An open file that counts and hashes what it gets, and keeps an error until it may be raised."""

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """The number of bytes written: all, or none from the first error on."""
        if self._error is not None:
            return 0
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self._error = error
            return 0
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)

    def check(self) -> None:
        """Raises the error that `write` met."""
        if self._error is not None:
            raise self._error
