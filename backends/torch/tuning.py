"""Fits weights of a part of a graph to what the part should give, by Adam, and lets held-out samples choose."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.backends.torch.dtypes import from_array, to_array
from secateur.backends.torch.lazy import torch
from secateur.backends.torch.opened import Opened
from secateur.backends.torch.program import Program, compile_torch
from secateur.ir import Graph
from secateur.ir.errors import DataError
from secateur.ir.runner import Descent, Example, Slope, Tuned

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]


ROUNDING = 1e-10
"""An error of no more than this share of the target's power is that of float32, and nothing to fit."""

SLOWER = 3.0
"""As long as no state was better than the first, the rate is divided by this at each look."""


class TorchTuner(Opened):
    """Weights of a part, ready to be fitted: `with TorchTuner(graph, inputs=..., output=..., weights=...) as tuner`.

    Weights are fitted in float32 and rounded to the type that they have each time the part is computed.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        inputs: Sequence[str],
        output: str,
        weights: Mapping[str, NDArray[Any] | None],
        device: str = "cpu",
    ) -> None:
        """Notes what is wanted; `with` prepares it.

        Args:
            graph: a whole model; it is not changed.
            inputs: names of values to be fed.
            output: name of the value that is to be as the targets are.
            weights: the constants to fit, by name: True for each element that may change, or None for all.
            device: "cpu", "cuda", "cuda:1".
        """
        self._graph, self._inputs, self._output = graph, tuple(inputs), output
        self._masks, self._device = dict(weights), device

    def _compile(self) -> Program:
        return compile_torch(self._graph, inputs=self._inputs, outputs=[self._output], device=self._device)

    def fit(self, examples: Sequence[Example], held_out: Sequence[Example], how: Descent) -> Tuned:
        """The weights, of all that were looked at, with the smallest mean squared error on what was held out.

        On the CPU the same numbers come out each time.

        Raises:
            DataError: there are no examples, a target has another shape than the output, or there is no such weight.
            BackendError: an op fails.
        """
        program = self._opened("tuner")
        if not examples:
            raise DataError("there is nothing to fit on", hint="give more samples")
        part, judging = _Part(program, self._output, self._masks), held_out or examples
        before = after = part.judge(judging)
        power = sum(map(_power, judging))
        if before * sum(map(_size, judging)) <= ROUNDING * power:
            return Tuned({}, before, before)
        best: Tensors = {}
        adam = _Adam(part.weights, part.masks, how)
        checked = {round((turn + 1) * how.steps / how.checks) for turn in range(how.checks)}
        for step, batch in zip(range(1, how.steps + 1), _batches(examples, how), strict=False):
            part.learn(batch)
            adam.step()
            if step not in checked:
                continue
            if (now := part.judge(judging)) < after:
                after, best = now, {name: weight.detach().clone() for name, weight in part.weights.items()}
            elif not best:
                adam.restart(part.given)
        return Tuned({name: to_array(tensor, None) for name, tensor in best.items()}, before, after)

    def slope(self, weights: Mapping[str, NDArray[Any]], example: Example) -> Slope:
        """The squared error of one example with other weights, and its gradient at each of them in float32.

        Args:
            weights: of those that the tuner was made for some, by name, shaped as they are.
            example: what goes in and should come out; its weight counts.

        Raises:
            DataError: the target has another shape than the output, or there is no such weight.
            BackendError: an op fails.
        """
        part = _Part(self._opened("tuner"), self._output, dict.fromkeys(weights))
        with torch.no_grad():
            for name, array in weights.items():
                part.weights[name].copy_(from_array(array))
        with torch.enable_grad():
            error = part.error(example)
        if error.requires_grad:
            error.backward()
        gradients = {
            name: np.zeros(tuple(one.shape), np.float32) if one.grad is None else to_array(one.grad, None)
            for name, one in part.weights.items()
        }
        return Slope(float(error.detach()), gradients)


class _Part:
    """The part with the weights that are fitted, in float32."""

    def __init__(self, program: Program, output: str, masks: Mapping[str, NDArray[Any] | None]) -> None:
        self._program, self._output = program, output
        self.given = program.parameters(masks)
        with torch.enable_grad():
            self.weights = {name: one.detach().float().clone().requires_grad_() for name, one in self.given.items()}
        self.masks = {
            name: from_array(one).to(self.given[name].device) for name, one in masks.items() if one is not None
        }

    def error(self, example: Example) -> Tensor:
        """The weighted sum of squares, of errors divided by what the example says.

        Raises:
            DataError: the target has another shape than the output.
        """
        weights = {name: weight.to(self.given[name].dtype) for name, weight in self.weights.items()}
        feeds = {name: from_array(array) for name, array in example.feeds.items()}
        made = self._program(feeds, weights)[self._output]
        wanted = from_array(example.target).to(made.device)
        if made.shape != wanted.shape:
            found, expected = list(made.shape), list(wanted.shape)
            raise DataError(
                f"{self._output} is {found}, but should come to be {expected}", hint="fit what has the same shape"
            )
        missed = made.float() - wanted.float()
        if example.per is not None:
            missed = missed / from_array(example.per).to(made.device)
        return example.weight * missed.square().sum()

    def judge(self, examples: Sequence[Example]) -> float:
        """The mean squared error."""
        with torch.no_grad():
            return sum(float(self.error(one)) for one in examples) / sum(map(_size, examples))

    def learn(self, batch: Sequence[Example]) -> None:
        """Adds up the gradients of a batch."""
        # Adam does not mind a factor, but float16 holds no gradients of a mean over many.
        scale = math.sqrt(sum(map(_size, batch)))
        for one in batch:
            with torch.enable_grad():
                loss = self.error(one) / scale
            if loss.requires_grad:
                loss.backward()


def _size(example: Example) -> float:
    """How many numbers count."""
    return example.weight * example.target.size


def _power(example: Example) -> float:
    """What it would be to miss all of the target."""
    wanted = example.target if example.per is None else example.target / example.per
    return example.weight * float(np.square(wanted, dtype=np.float64).sum())


class _Adam:
    """Kingma and Ba 2015, algorithm 1, with their constants; `torch.optim` would load torch's compiler, for seconds."""

    _KEPT = (0.9, 0.999)
    _LEAST = 1e-12
    """Gradients of what hardly errs are small, and count no less."""

    def __init__(self, weights: Tensors, masks: Tensors, how: Descent) -> None:
        self._weights, self._masks, self._how = weights, masks, how
        self._rates = {name: how.rate * scale for name, scale in _scales(weights).items()}
        self._moments = self._at_rest()
        self._taken = self._begun = 0

    def _at_rest(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (torch.zeros_like(one), torch.zeros_like(one)) for name, one in self._weights.items()}

    def restart(self, given: Tensors) -> None:
        """Goes back to the weights as they were, to try a third of the rate in the steps that are left."""
        self._moments, self._begun = self._at_rest(), self._taken
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(given[name])
                self._rates[name] /= SLOWER

    def step(self) -> None:
        """Moves each weight against its gradient, which is then gone."""
        pace = 0.5 * (1 + math.cos(math.pi * self._taken / self._how.steps))
        self._taken += 1
        first, second = (1 - kept ** (self._taken - self._begun) for kept in self._KEPT)
        for name, weight in self._weights.items():
            gradient, weight.grad = weight.grad, None
            if gradient is None:
                continue
            mean, square = self._moments[name]
            mean.lerp_(gradient, 1 - self._KEPT[0])
            square.lerp_(gradient.square(), 1 - self._KEPT[1])
            move = mean / first / ((square / second).sqrt() + self._LEAST)
            with torch.no_grad():
                weight -= pace * self._rates[name] * (move * self._masks[name] if name in self._masks else move)


def _scales(weights: Tensors) -> dict[str, float]:
    """How large the elements of each weight are; one that is all zeros moves like the others."""
    found = {name: _scale(weight.detach()) for name, weight in weights.items()}
    typical = [scale for scale in found.values() if scale > 0]
    return {name: scale or (float(np.mean(typical)) if typical else 1.0) for name, scale in found.items()}


def _scale(weight: Tensor) -> float:
    """The root mean square of the elements that are not zero."""
    there = weight[weight != 0]
    return float(there.square().mean().sqrt()) if there.numel() else 0.0


def _batches(examples: Sequence[Example], how: Descent) -> Iterator[list[Example]]:
    """Examples in an order drawn anew for each walk, as many at a time as have the samples of a step."""
    random = np.random.default_rng(how.seed)
    batch: list[Example] = []
    while True:
        for index in random.permutation(len(examples)):
            batch.append(examples[index])
            if sum(len(one.target) for one in batch) >= how.samples or len(batch) >= len(examples):
                yield batch
                batch = []
