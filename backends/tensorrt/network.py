"""From an ONNX file to a parsed TensorRT network, or to the reasons why not."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from secateur.backends.tensorrt import messages
from secateur.backends.tensorrt.errors import BackendUnavailable, UnsupportedModel
from secateur.backends.tensorrt.messages import Message, Recorder, Refusal
from secateur.backends.tensorrt.shim import Choice, Trt, load
from secateur.ir.errors import ModelError

Result = TypeVar("Result")


def run_in_worker(work: Callable[[], Result], cancel: Callable[[], None]) -> Result:
    """Runs `work` in a thread of its own, so that an interrupt reaches the caller; `cancel` then tells it to stop.

    Python raises KeyboardInterrupt in the main thread, and TensorRT drops what is raised in one of its callbacks: a
    build on the main thread would lose it. Returns, or raises, only when the worker has ended.
    """

    def guarded() -> Result:
        try:
            return work()
        except BaseException as error:
            _forget_locals(error)
            raise

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="secateur-tensorrt") as pool:
        future = pool.submit(guarded)
        try:
            while not wait((future,), timeout=0.1).done:
                pass
        finally:
            if not future.done():
                cancel()
        return future.result()


def _forget_locals(error: BaseException | None) -> None:
    """Frees what the frames behind an error hold, the builder above all, here and now.

    Left to the garbage collector, a builder may be freed in the middle of a callback of the next one, where both want
    the same lock of TensorRT's: the process then hangs.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@dataclass(frozen=True)
class Session:
    """One builder with its empty or parsed network, and all that it says."""

    trt: Trt
    recorder: Recorder
    logger: Any
    builder: Any
    network: Any

    @property
    def log(self) -> list[Message]:
        """The rows so far."""
        return self.recorder.rows


def open_session(trt: Trt) -> Session:
    """A builder with an empty, strongly typed network.

    Raises:
        BackendUnavailable: the package is there but cannot make a builder, as `tensorrt` cannot without a GPU.
    """
    recorder = Recorder()
    module = trt.module
    logger = trt.implement("ILogger", log=recorder.log)
    try:
        builder = module.Builder(logger)
        if hasattr(module, "init_libnvinfer_plugins"):
            module.init_libnvinfer_plugins(logger, "")
        network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    except (TypeError, RuntimeError) as error:
        # A factory that gives nothing is a TypeError in the bindings.
        reasons = "; ".join(messages.errors(recorder.rows)) or str(error)
        raise BackendUnavailable(
            f"{trt.flavor} {trt.version} cannot make a builder: {reasons}",
            hint="building with tensorrt needs an NVIDIA GPU and its driver; TensorRT-RTX builds without one",
            log=recorder.rows,
        ) from error
    return Session(trt, recorder, logger, builder, network)


def parse(session: Session, path: Path) -> tuple[Refusal, ...]:
    """Parses the file into the session's network; returns what was refused (nothing: the network is complete).

    Weights are read later, while the engine is built: the file and its external data must stay until then.

    Raises:
        ModelError: no file, no ONNX model in it, or its external data is missing or cut short.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    # The parser looks for external data beside the file, which it cannot do for a bare relative name.
    parser = session.trt.module.OnnxParser(session.network, session.logger)
    accepted = parser.parse_from_file(os.path.abspath(path))
    external = messages.external_data_failures(session.log)
    if external:
        raise ModelError(
            f"{path}: its external data cannot be read: {'; '.join(external)}",
            hint="keep the data files beside the model, under the names that it was saved with",
        )
    found = messages.refusals(parser, session.log)
    damaged = any(refusal.code == "MODEL_DESERIALIZE_FAILED" for refusal in found)
    # The parser says that it understood an empty file, and any text too.
    if damaged or (accepted and (session.network.num_outputs == 0 or session.network.num_layers == 0)):
        raise ModelError(f"{path}: not an ONNX model, or cut short", hint="export the model again")
    if not accepted and not found:
        reasons = "; ".join(messages.errors(session.log)) or "no reason given"
        return (Refusal("UNKNOWN", "", "", reasons),)
    return found


def require_supported(session: Session, path: Path) -> None:
    """Parses the file and passes when TensorRT takes all of it.

    Raises:
        UnsupportedModel: names each operator that is refused, and why.
        ModelError: see `parse`.
    """
    refused = parse(session, path)
    if refused:
        raise unsupported(session, path, refused)


def unsupported(session: Session, path: Path, refused: tuple[Refusal, ...]) -> UnsupportedModel:
    """The error for a model with refusals, one line for each."""
    lines = "".join(f"\n  {refusal}" for refusal in refused)
    return UnsupportedModel(
        f"{session.trt.flavor} {session.trt.version} does not take {path}:{lines}",
        refused,
        hint="export without these operators or types, or rewrite them before the build",
        log=session.log,
    )


def supports(path: str | os.PathLike[str], flavor: Choice = "auto") -> list[Refusal]:
    """What the parser refuses in the ONNX file, without building; [] when it takes it all.

    The parser stops at the first node that it cannot convert, though it checks all nodes for missing operators first.
    The builder, and the GPU to build for, may refuse more.

    Raises:
        BackendUnavailable: there is no TensorRT to ask.
        ModelError: the file holds no model that can be read.
    """
    trt = load(flavor)
    return run_in_worker(lambda: list(parse(open_session(trt), Path(path))), lambda: None)
