"""From an ONNX file to an engine on disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secateur.backends.tensorrt import messages, quantized
from secateur.backends.tensorrt.configuration import configure, flags_of, keep_timing_cache, load_plugins
from secateur.backends.tensorrt.errors import BuildCancelled
from secateur.backends.tensorrt.failures import build_failure
from secateur.backends.tensorrt.layers import layers_from_log
from secateur.backends.tensorrt.metadata import metadata, metadata_path
from secateur.backends.tensorrt.network import Session, open_session, require_supported, run_in_worker
from secateur.backends.tensorrt.options import BuildOptions, check_against
from secateur.backends.tensorrt.profiles import add_profiles, check_profiles, network_inputs
from secateur.backends.tensorrt.progress import Monitor
from secateur.backends.tensorrt.report import BuildReport
from secateur.backends.tensorrt.shim import Trt, load
from secateur.backends.tensorrt.sink import Sink
from secateur.backends.tensorrt.sparsity import broken_promises, remarks, require_sparse, weight_verdicts
from secateur.ir import Graph, onnx_read
from secateur.ir.errors import OutputError, SecateurError
from secateur.ir.files import write_atomically
from secateur.ir.onnx_external import checksums


@dataclass(frozen=True)
class Origin:
    """What is told of a model beside its file: a `title` to call it by, and the `manifest` of what was done to it."""

    title: str | None = None
    manifest: Path | None = None


def build(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: BuildOptions | None = None,
    *,
    origin: Origin | None = None,
) -> BuildReport:
    """Builds the ONNX model at `path` into a TensorRT engine at `output`, with its metadata in `output`.json beside it.

    TensorRT-RTX gives the same bytes for the same model and options; `tensorrt` times kernels and may not. Whatever
    goes wrong, `output` is what it was before. An interrupt takes effect at the builder's next step, and is raised when
    the builder has let go; compiling all kernels is one step, which TensorRT cannot be made to leave.

    Raises:
        BackendUnavailable: there is no TensorRT that can build here, or it cannot do here what is asked for.
        TargetError: a compute capability is unknown, or has no hardware for a data type of the model.
        ModelError: the file holds no model that can be read.
        UnsupportedModel: operators that TensorRT does not take, each by name.
        ProfileError: inputs of no fixed size without profile, or a profile that does not fit them.
        PluginError: a plugin library cannot be loaded.
        BuildFailed: the builder gave up; its reasons are in the message.
        PrecisionNotHonoured: a quantized node does not run in the type that is required.
        SparsityNotHonoured: sparse weights are required, and are not there or not made use of.
        BuildCancelled: the progress callback said False. What it raises is raised here instead.
        OutputError: the engine cannot be written.
    """
    options = options or BuildOptions()
    trt = load(options.flavor)
    check_against(trt, options)
    job = _Job(trt, Path(path), Path(output), options, origin or Origin())
    _spare_inputs(job)
    monitor = Monitor(options.progress)
    try:
        return run_in_worker(lambda: _build(job, monitor), monitor.cancel)
    except BuildCancelled:
        if monitor.error is not None:
            raise monitor.error from None
        raise


@dataclass(frozen=True)
class _Job:
    trt: Trt
    path: Path
    output: Path
    options: BuildOptions
    origin: Origin


def _spare_inputs(job: _Job) -> None:
    """Nothing where no input would be written over.

    Raises:
        OutputError: the engine, or what lies beside it, would be written over the model or its manifest.
    """
    inputs = {"the model": job.path, "the manifest": job.origin.manifest}
    for target in (job.output, metadata_path(job.output)):
        for what, source in inputs.items():
            if source is not None and source.exists() and target.exists() and os.path.samefile(source, target):
                raise OutputError(f"cannot write {target}: it is {what} itself", hint="choose another output path")


def _build(job: _Job, monitor: Monitor) -> BuildReport:
    started = time.perf_counter()
    trt, path, output, options = job.trt, job.path, job.output, job.options
    session = open_session(trt)
    load_plugins(session, options)
    require_supported(session, path)
    inputs, nodes = network_inputs(session.network), quantized.quantized_nodes(session.network)
    check_profiles(inputs, options.profiles)
    config = configure(session, options)
    add_profiles(session.builder, config, inputs, options.profiles)
    monitor.attach(trt, config)
    with write_atomically(output, metadata_path(output)) as (temporary, beside):
        with temporary.open("wb") as file:
            sink = Sink(file)
            made = _serialize(session, config, sink, stream=options.stream_to_file and trt.streams)
        if monitor.cancelled:
            raise BuildCancelled(f"building {path} was stopped; {output} was not written", log=session.log)
        if not made:
            raise build_failure(session, path)
        report, graph = _report(job, session, nodes, sink)
        beside.write_text(metadata(report, graph, checksums(path), job.origin.manifest), encoding="utf-8")
        keep_timing_cache(config, options)
        return replace(report, seconds=time.perf_counter() - started)


def _report(
    job: _Job, session: Session, nodes: tuple[quantized.Quantized, ...], sink: Sink
) -> tuple[BuildReport, Graph | None]:
    """All that can be said of the engine, after what was required of it was checked."""
    options, title = job.options, job.origin.title or str(job.path)
    layers, unknown = layers_from_log(session.log)
    lines = messages.sparsity_lines(session.log)
    precision = None if unknown else quantized.precisions(nodes, layers)
    if options.require_precision is not None:
        quantized.require(options.require_precision, precision, title, session.log)
    graph, unread = _graph(job.path, required=options.require_sparse)
    weights = () if graph is None else weight_verdicts(graph, options.compute_capabilities, layers, lines)
    broken = () if graph is None else broken_promises(graph)
    if options.require_sparse:
        require_sparse(weights, broken, title, session.log)
    report = BuildReport(
        model=Path(title),
        engine=job.output,
        bytes=sink.bytes,
        sha256=sink.digest.hexdigest(),
        seconds=0.0,
        flavor=job.trt.flavor,
        version=job.trt.version,
        targets=options.compute_capabilities,
        profiles=options.profiles,
        options=options.to_json(),
        flags=flags_of(session, options),
        layers=layers,
        precision=precision,
        quantized_in_float=None if precision is None else tuple(one.node for one in precision if not one.is_honoured),
        weights=weights,
        memory=messages.memory_figures(session.log),
        warnings=messages.warnings(session.log),
        sparsity_lines=lines,
        notes=tuple(filter(None, (unknown, unread))),
    )
    said = [*report.notes, *_notes(job.trt, options, report)]
    if broken:
        said.append(f"marked as sparse, and not: {', '.join(broken[:8])}")
    return replace(report, notes=tuple(said)), graph


def _graph(path: Path, *, required: bool) -> tuple[Graph | None, str | None]:
    """The model; or None and a sentence where TensorRT takes what cannot be read here."""
    try:
        graph = onnx_read.load(path)
        graph.verify()
    except SecateurError as error:
        if required:
            raise
        return None, f"sparsity unknown: {error.message}"
    return graph, None


def _serialize(session: Session, config: Any, sink: Sink, *, stream: bool) -> bool:
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
    yield from remarks(report.weights, options.sparse_weights or options.require_sparse)
    if trt.compute_capabilities and not options.compute_capabilities:
        yield "no compute capability was named: the model's data types were checked against no GPU"
    if options.stream_to_file and not trt.streams:
        yield "the engine was held in memory as a whole: this package cannot write it as it is made"
    if options.progress is not None and not trt.reports_progress:
        yield "this package reports no progress, and could not have been stopped"
