"""What lint says: one construct that TensorRT would refuse, change or slow down, with the reason and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What becomes of a construct. The first two make a model unfit to build as it is."""

    REFUSED = "refused"
    CHANGED = "changed silently"
    SLOWER = "slower"
    NOTE = "note"


class Source(StrEnum):
    """How a rule is known. Observed means: by experiments with TensorRT-RTX 1.7 on a machine without a GPU."""

    PARSER = "refused by the parser of TensorRT-RTX 1.7"
    BUILDER = "refused by the builder of TensorRT-RTX 1.7"
    ENGINE = "seen in the kernels of engines that TensorRT-RTX 1.7 built"
    LOG = "said in the log of TensorRT-RTX 1.7 only"
    PROFILES = "observed: TensorRT checks its profiles late or not at all"
    ONNX = "the ONNX specification, which TensorRT does not check"
    HARDWARE = "compute capabilities by data type, as the builder of TensorRT-RTX 1.7 enforces them"


@dataclass(frozen=True)
class Finding:
    """One construct.

    - `node`: the op as errors name it (`Conv 'conv1'`), "" where the finding concerns the model or a value.
    - `value`: the value at fault, "" where it is none in particular.
    - `reason`: what TensorRT does with it, and why. `remedy`: what to do about it. `source`: how that is known.
    - `inside`: the function or the bodies that the op lies in, outermost first.
    """

    severity: Severity
    node: str
    value: str
    reason: str
    remedy: str
    source: Source
    inside: tuple[str, ...] = ()

    @property
    def is_harmful(self) -> bool:
        """True where no engine, or one that computes something else, comes out."""
        return self.severity in (Severity.REFUSED, Severity.CHANGED)

    def to_json(self) -> dict[str, object]:
        """The same as strings and lists."""
        return {**asdict(self), "severity": self.severity.value, "source": self.source.value}

    def __str__(self) -> str:
        place = f" (inside {' / '.join(self.inside)})" if self.inside else ""
        where = self.node or (f"value {self.value!r}" if self.value else "the model")
        return f"{self.severity.value}: {where}{place}: {self.reason}; {self.remedy}"
