"""What a rule is given, and the table of rules: how each operator is evaluated in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from secateur.backends.torch.dtypes import data_type, from_array, torch_dtype
from secateur.backends.torch.lazy import torch
from secateur.ir import DataType
from secateur.ir import Tensor as Constant
from secateur.ir.errors import BackendError
from secateur.ir.node import Op, Value
from secateur.ir.rules.table import RuleTable

if TYPE_CHECKING:
    from torch import Tensor

Rule: TypeAlias = Callable[["Call"], Any]
"""Tensors (and lists of them, for sequences) to the first output, or to a tuple of all outputs."""

torch_rules: RuleTable[Rule] = RuleTable("how is it evaluated in torch?")


class Body(Protocol):
    """The body of an op, ready to be evaluated."""

    def __call__(self, *inputs: Any) -> list[Any]:
        """Its inputs, in their order, to its outputs."""
        ...


@dataclass(slots=True)
class Call:
    """One op with the values that it reads.

    `call[0]` is the first input, on the device on which the op is computed: the program's, unless all inputs lie on the
    CPU, as shapes and what is computed from them do.

    Attributes:
        op: the op itself.
        opset: the version of its domain that the model imports.
        attributes: plain values by name.
        values: the inputs as they lie; None where one is left out.
        kinds: the element type that an input carries, where torch does not say it.
        device: where it is computed; `home` is the program's device.
        bodies: those of If, Loop and Scan, by the name of the attribute.
        move: brings what an input holds to a device; None where all lies on one.
        straight_through: let gradients pass where numbers are rounded.
    """

    op: Op
    opset: int
    attributes: Mapping[str, Any]
    values: Sequence[Any]
    kinds: Sequence[DataType | None]
    device: Any
    home: Any
    bodies: Mapping[str, Body]
    move: Callable[[Value, Any, Any], Any] | None = None
    straight_through: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, port: int) -> Tensor:
        value = self.get(port)
        if value is None:
            raise BackendError(f"{self.op.title} lacks its input {port}", hint="the model is not valid: check the op")
        return value

    def get(self, port: int) -> Tensor | None:
        """An input, None where it is left out."""
        value = self.values[port] if port < len(self.values) else None
        source = self.op.inputs[port] if value is not None else None
        return value if self.move is None or source is None else self.move(source, value, self.device)

    def raw(self, port: int) -> Any:
        """An input as it lies: a tensor on whatever device, a list of tensors, None."""
        return self.values[port] if port < len(self.values) else None

    def tensors(self) -> list[Tensor]:
        """All inputs."""
        return [self[port] for port in range(len(self.values))]

    def ints(self, port: int) -> list[int] | None:
        """The whole numbers of an input, None where it is left out."""
        found = self.raw(port)
        return None if found is None else [int(number) for number in found.reshape(-1).tolist()]

    def number(self, port: int, default: Any = None) -> Any:
        """The only number of an input, or `default` where it is left out."""
        found = self.raw(port)
        return default if found is None else found.reshape(-1)[0].item()

    def attribute(self, name: str, default: Any = None) -> Any:
        """The plain value of an attribute; strings are str, lists are tuples."""
        return self.attributes.get(name, default)

    def ints_or_attribute(self, port: int, name: str) -> list[int] | None:
        """Whole numbers that older opsets have in an attribute and newer ones in an input."""
        found = self.ints(port)
        said = self.attribute(name)
        return found if found is not None else None if said is None else list(said)

    def kind(self, port: int) -> DataType:
        """The element type of an input."""
        return self.kinds[port] or data_type(self.values[port])

    def wants(self, port: int) -> bool:
        """Whether anybody reads this output."""
        return port < len(self.op.outputs) and self.op.outputs[port] is not None

    def constant(self, tensor: Constant) -> Tensor:
        """The tensor of an attribute, on the device."""
        return from_array(tensor.numpy()).to(self.device)

    def dtype(self, name: str = "dtype", default: DataType = DataType.FLOAT32) -> Any:
        """The torch dtype that an attribute asks for."""
        return torch_dtype(DataType(self.attribute(name, int(default))))

    def refuse(self, what: str) -> BackendError:
        """The error for what a rule does not do."""
        return BackendError(
            f"torch has no rule for {self.op.title} {what}", hint="run this model with onnxruntime instead"
        )


def wide(x: Tensor) -> Tensor:
    """Real numbers in float32 at least, as norms and softmax are computed whatever the type of the model."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def host(numbers: Sequence[int], dtype: DataType = DataType.INT64) -> Tensor:
    """A tensor on the CPU, where shapes live."""
    return torch.tensor(numbers, dtype=torch_dtype(dtype))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    return axis + rank if axis < 0 else axis
