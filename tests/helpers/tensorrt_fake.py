"""A package that looks like `tensorrt` and builds nothing: what the real one says and does where there is a GPU."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, field


def namespace(**members: object) -> types.SimpleNamespace:
    return types.SimpleNamespace(**members)


LAYER = (
    "Name: {node} + relu, LayerType: CaskGemmConvolution, Inputs: [ {{ Name: x, Location: Device, Dimensions: [16,64], "
    "Format/Datatype: {dtype} }}], Outputs: [ {{ Name: y, Location: Device, Dimensions: [16,64], Format/Datatype: Half "
    "}}], ParameterType: Convolution, HasSparseWeights: 1, TacticName: {tactic}, TacticValue: 0x1, StreamId: 0, "
    "Metadata: [ONNX Layer: {node}]"
)


@dataclass
class Full:
    """What the fake says while it builds, and what it was told."""

    node: str = "matmul"
    dtype: str = "Half"
    tactic: str = "sm80_xmma_gemm_f16f16"
    lines: Sequence[str] = ()
    flags: list[str] = field(default_factory=list)
    caches: list[bytes] = field(default_factory=list)

    def module(self) -> types.ModuleType:
        """The module, to be put into `sys.modules` as `tensorrt`."""
        made = types.ModuleType("tensorrt")
        made.__version__ = "10.99.0"

        class ILogger:
            pass

        class Parser:
            num_errors = 0

            def __init__(self, network: object, logger: object) -> None:
                pass

            def parse_from_file(self, path: str) -> bool:
                return True

        outer = self

        class Builder:
            def __init__(self, logger: object) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> object:
                return namespace(num_outputs=1, num_layers=1, num_inputs=0, get_layer=lambda index: _LAYER)

            def create_builder_config(self) -> object:
                return _Config(outer)

            def build_serialized_network(self, network: object, config: object) -> bytes:
                table = "Layers:\n" + LAYER.format(node=outer.node, dtype=outer.dtype, tactic=outer.tactic)
                self.logger.log(namespace(name="VERBOSE"), table)
                for line in outer.lines:
                    self.logger.log(namespace(name="INFO"), line)
                return b"engine"

        made.ILogger, made.OnnxParser, made.Builder = ILogger, Parser, Builder
        made.NetworkDefinitionCreationFlag = namespace(STRONGLY_TYPED=1)
        made.ProfilingVerbosity = namespace(DETAILED=2)
        made.MemoryPoolType = namespace(WORKSPACE=0)
        names = ("SPARSE_WEIGHTS", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE")
        made.BuilderFlag = namespace(**{name: name for name in names})
        return made


_LAYER = namespace(num_inputs=0, num_outputs=0, type=namespace(name="ACTIVATION"), metadata="", name="")


class _Config:
    def __init__(self, outer: Full) -> None:
        self._outer = outer
        self._cache: bytes | None = None

    def set_flag(self, name: str) -> None:
        self._outer.flags.append(name)

    def create_timing_cache(self, data: bytes) -> object:
        return None if data == b"of another version" else namespace(data=data)

    def set_timing_cache(self, cache: object, ignore_mismatch: bool) -> bool:
        self._cache = cache.data
        return True

    def get_timing_cache(self) -> object:
        self._outer.caches.append(self._cache)
        return namespace(serialize=lambda: self._cache + b"+timed")
