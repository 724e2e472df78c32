"""One evaluation of a plan: values come, are tapped, are read, and go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from secateur.backends.torch.call import Call
from secateur.backends.torch.dtypes import from_array
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.plan import Plan, Step
from secateur.ir.errors import BackendError
from secateur.ir.node import Value

if TYPE_CHECKING:
    from torch import Tensor

Tap: TypeAlias = "Callable[[Tensor], Tensor]"
"""What takes the place of a value: it is given the tensor that the graph computes."""

_SMALL = 16
_LONGEST = 300


class Constants:
    """Weights as tensors, turned into such once, when first needed; copied once to where else they are needed."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self._tensors: dict[Value, Tensor] = {}
        self._copies: dict[tuple[Value, Any], Tensor] = {}

    def get(self, value: Value) -> Tensor:
        """The tensor of a constant, where it lies: on the device, or on the CPU if it is but a few numbers in a row.

        Sizes, bounds, scales and the like are read there, without waiting for the device.
        """
        found = self._tensors.get(value)
        if found is None:
            assert value.const is not None
            with _ordinary():
                made = from_array(value.const.numpy())
                found = self._tensors[value] = made if _is_small(made) else made.to(self.device)
        return found

    def home(self, given: Any) -> Any:
        """What is fed, on the device; a few whole numbers in a row stay on the CPU."""
        if not isinstance(given, torch.Tensor) or (_is_small(given) and not given.is_floating_point()):
            return given
        return given.to(self.device)

    def move(self, value: Value, held: Any, device: Any) -> Any:
        """What a value holds, on a device."""
        if not isinstance(held, torch.Tensor) or held.device == device:
            return held
        if value not in self._tensors or held is not self._tensors[value]:
            return held.to(device)
        found = self._copies.get((value, device))
        if found is None:
            with _ordinary():
                found = self._copies[value, device] = held.to(device)
        return found


def _ordinary() -> Any:
    """What is kept must be of use to autograd later on, even if the first call wants no gradients."""
    return torch.inference_mode(False)


def _is_small(tensor: Tensor) -> bool:
    return bool(tensor.dim() <= 1 and tensor.numel() <= _SMALL)


class Session:
    """What one evaluation needs to know."""

    def __init__(
        self,
        constants: Constants,
        weights: Mapping[str, Tensor],
        taps: Mapping[str, Tap],
        *,
        straight_through: bool = False,
    ) -> None:
        self.constants = constants
        self.weights = weights
        self.taps = taps
        self.straight_through = straight_through
        self.device = constants.device
        self.move = None if self.device.type == "cpu" else constants.move

    def evaluate(self, plan: Plan, inputs: Sequence[Any], outer: Mapping[Value, Any]) -> list[Any]:
        """The outputs of a graph.

        Args:
            plan: the graph.
            inputs: what it is fed, in its order; None for a default, or for an optional that is empty.
            outer: the values of the graph around it.

        Raises:
            BackendError: torch refuses an op; it is named, with what it was given.
        """
        values: dict[Value, Any] = {value: outer[value] for value in plan.captured}
        for value in plan.constants:
            given = self.weights.get(value.name)
            values[value] = self._tapped(value, self.constants.get(value) if given is None else given)
        for value, given in zip(plan.graph.inputs, inputs, strict=False):
            if given is not None or value not in values:
                values[value] = self._tapped(value, given)
        for step in plan.steps:
            made = self._made(step, plan, values)
            for target, result in zip(step.op.outputs, made, strict=False):
                if target is not None:
                    values[target] = self._tapped(target, result)
            for gone in step.last:
                values.pop(gone, None)
        return [values[value] for value in plan.graph.outputs]

    def _tapped(self, value: Value, held: Any) -> Any:
        if not self.taps or value.name not in self.taps:
            return held
        return self.taps[value.name](held)

    def _made(self, step: Step, plan: Plan, values: dict[Value, Any]) -> tuple[Any, ...]:
        inputs = [None if value is None else values[value] for value in step.op.inputs]
        if step.rule is None:
            (body,) = step.bodies.values()
            left_out = [None] * (len(body.graph.inputs) - len(inputs))
            return tuple(self.evaluate(body, [*inputs, *left_out], {}))
        call = Call(
            op=step.op,
            opset=step.opset,
            attributes=step.attributes,
            values=inputs,
            kinds=[None if value is None else plan.kinds.get(value) for value in step.op.inputs],
            device=self.device if self.move is None else self._place(inputs),
            home=self.device,
            bodies={name: self._body(body, values) for name, body in step.bodies.items()},
            move=self.move,
            straight_through=self.straight_through,
        )
        try:
            made = step.rule(call)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise _refusal(step, inputs, error) from error
        return made if isinstance(made, tuple) else (made,)

    def _body(self, body: Plan, values: Mapping[Value, Any]) -> Callable[..., list[Any]]:
        return lambda *inputs: self.evaluate(body, inputs, values)

    def _place(self, inputs: Sequence[Any]) -> Any:
        """Where an op is computed: on the device as soon as one of its inputs lies there."""
        for held in inputs:
            if isinstance(held, torch.Tensor) and held.device == self.device:
                return self.device
        return torch.device("cpu")


def _refusal(step: Step, inputs: Sequence[Any], error: Exception) -> BackendError:
    shapes = ", ".join(
        f"{str(one.dtype).removeprefix('torch.')}{list(one.shape)}" if hasattr(one, "shape") else "-" for one in inputs
    )
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    is_memory = "out of memory" in text or "can't allocate memory" in text
    return BackendError(
        f"torch cannot run {step.op.title} on {shapes or 'nothing'}: {text}",
        hint="give smaller batches, or fetch fewer values at a time"
        if is_memory
        else "check that the shapes fed fit the op",
    )
