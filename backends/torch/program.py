"""Programs: a graph, or a part of one, as a function on torch tensors that gradients flow through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secateur.backends.torch.call import Rule
from secateur.backends.torch.lazy import load, torch
from secateur.backends.torch.plan import Plan, plan
from secateur.backends.torch.session import Constants, Session, Tap
from secateur.ir import DataType, Graph
from secateur.ir.errors import BackendError, DataError
from secateur.ir.extract import extract, forget_sizes

if TYPE_CHECKING:
    from torch import Tensor


def compile_torch(
    graph: Graph,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    device: str = "cpu",
    straight_through: bool = False,
    rules: Mapping[str, Rule] | None = None,
) -> Program:
    """The part of a graph that leads from some values to others, as a function on torch tensors.

        program = compile_torch(graph)
        weights = program.parameters(["fc1.weight"])
        made = program({"x": x}, weights, taps={"hidden": gated(gate, axis=-1)})
        loss(made["y"]).backward()  # reaches weights["fc1.weight"].grad, gate.grad, x.grad

    Args:
        graph: a whole model; it is not changed, and later changes of it do not show.
        inputs: names of values to be fed; None for the graph's own inputs.
        outputs: names of any values, to be computed; None for the graph's own outputs.
        device: "cpu", "cuda", "cuda:1". Shapes and what is computed from them stay on the CPU all the same.
        straight_through: let gradients pass where QuantizeLinear rounds, as if it did not (Bengio, Leonard, Courville,
            2013); what is quantized is then held in floats.
        rules: more rules than `torch_rules` has, or others, by op type (`Conv`, `domain::Conv`).

    Raises:
        BackendError: torch is not installed, has no such device, or ops have no rule (all are named).
        GraphError: a name is unknown, or the inputs do not suffice for the outputs.
    """
    names = [value.name for value in graph.outputs] if outputs is None else list(outputs)
    part = extract(graph, inputs, names)
    forget_sizes(part, graph)
    load()
    return Program(plan(part, rules), _device(device), straight_through=straight_through)


class Program:
    """What `compile_torch` makes: call it with tensors. Weights are turned into tensors once, when first needed."""

    def __init__(self, plan: Plan, device: Any, *, straight_through: bool = False) -> None:
        self._plan = plan
        self._device = device
        self._straight_through = straight_through
        self._constants = Constants(device)
        inner = list(_plans(plan))
        self._by_name = {value.name: value for one in inner for value in one.constants}
        self._names = {value.name for one in inner for value in one.graph.values()}

    @property
    def input_names(self) -> tuple[str, ...]:
        """What is to be fed; inputs with a default may be left out."""
        return tuple(value.name for value in self._plan.graph.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What is computed, in this order."""
        return tuple(value.name for value in self._plan.graph.outputs)

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shape of each constant of real numbers, by name; those in bodies included."""
        consts = {name: value.const for name, value in self._by_name.items()}
        return {name: const.shape for name, const in consts.items() if const is not None and const.dtype.is_float}

    def kind(self, name: str) -> DataType | None:
        """The element type of an input or output where torch has none like it, so that a wider one carries it."""
        found = self._plan.graph.get(name)
        return None if found is None else self._plan.kinds.get(found)

    def parameters(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Weights as new leaf tensors that require gradients, to be handed in as `weights`.

        Args:
            names: of constants of real numbers, as `weights` has them; None for all.

        Raises:
            DataError: there is no such weight.
        """
        wanted = list(self.weights if names is None else names)
        self._refuse_unknown("weight", wanted, self.weights)
        made = {name: self._constants.get(self._by_name[name]).to(self._device) for name in wanted}
        return {name: tensor.detach().clone().requires_grad_() for name, tensor in made.items()}

    def __call__(
        self,
        feeds: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None = None,
        taps: Mapping[str, Tap] | None = None,
    ) -> dict[str, Tensor]:
        """Evaluates the part.

        Gradients reach feeds, weights and whatever the taps bring in, unless torch is told otherwise
        (`torch.no_grad`, `torch.inference_mode`).

        Args:
            feeds: a tensor for each input that has no default.
            weights: tensors to be taken instead of constants, by name.
            taps: functions that change a value as soon as it is there, by its name: fed, constant or computed; one in
                the body of a loop at each turn.

        Returns:
            The outputs by name, on the device, or on the CPU where they are shapes.

        Raises:
            DataError: a feed is missing or unknown, or there is no such weight or value to tap.
            BackendError: torch refuses an op; it is named.
        """
        weights, taps, graph = weights or {}, taps or {}, self._plan.graph
        missing = [value.name for value in graph.inputs if value.name not in feeds and value.const is None]
        if missing:
            raise DataError(f"the feeds lack {', '.join(missing)}", hint="give each input a tensor")
        self._refuse_unknown("input", feeds, self.input_names)
        self._refuse_unknown("weight", weights, self._by_name)
        self._refuse_unknown("value", taps, self._names)
        session = Session(self._constants, weights, taps, straight_through=self._straight_through)
        given = [self._constants.home(feeds.get(name)) for name in self.input_names]
        with _deterministic(self._device):
            made = session.evaluate(self._plan, given, {})
        return dict(zip(self.output_names, made, strict=True))

    def _refuse_unknown(self, what: str, given: Iterable[str], known: Iterable[str]) -> None:
        found = set(known)
        if unknown := [name for name in given if name not in found]:
            shown = ", ".join(sorted(found)[:8]) + (", …" if len(found) > 8 else "")
            raise DataError(f"the part has no {what} {', '.join(unknown)}", hint=f"there are {shown or 'none'}")


def gated(gate: Tensor, axis: int) -> Tap:
    """A tap that multiplies a value by one number for each index of an axis: a mask, or a gate to be learned.

    Args:
        gate: as many numbers as the axis has indices.
        axis: of the value, from the front or (negative) from the back.
    """

    def tap(value: Tensor) -> Tensor:
        shape = [1] * value.dim()
        shape[axis] = -1
        return value * gate.to(value.device).reshape(shape)

    return tap


def _device(name: str) -> Any:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device {name!r}", hint='say "cpu", "cuda" or "cuda:1"') from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"torch finds no device {name!r}, only {torch.cuda.device_count()} GPUs",
            hint="install a CUDA build of torch, or run on the CPU",
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


@contextmanager
def _deterministic(device: Any) -> Iterator[None]:
    """Convolutions on a GPU in full float32, by algorithms that give the same numbers each time."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _plans(plan: Plan) -> Iterator[Plan]:
    yield plan
    for step in plan.steps:
        for body in step.bodies.values():
            yield from _plans(body)
