"""Channels that can go: from the op that makes them, through ops that carry them, to the ops that sum over them.

This finds chains without joins of several producers (a residual trunk, a concatenation); those are refused by name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from secateur.ir.node import Op, Value
from secateur.ir.rules.channels import Carried, Place, channel_rules
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import WeightUse, weight_use, weight_uses


@dataclass(frozen=True, slots=True)
class Consumer:
    """An op that sums over the channels; each owns `stride` neighbouring entries of the weight's contracted axis."""

    use: WeightUse
    stride: int


@dataclass(frozen=True, slots=True)
class Chain:
    """One set of removable channels. `carriers` lie between the producer and its consumers, in order."""

    producer: WeightUse
    channels: int
    carriers: tuple[tuple[Op, Carried], ...]
    consumers: tuple[Consumer, ...]
    places: tuple[tuple[Value, Place], ...]
    """Where the channels lie in each value between the producer and the consumers."""

    @property
    def title(self) -> str:
        """How reports name it: by the weight whose output channels go."""
        return self.producer.weight.name


@dataclass(frozen=True, slots=True)
class Refusal:
    """Channels that stay, and why."""

    producer: WeightUse
    reason: str

    @property
    def title(self) -> str:
        """How reports name it: by the weight whose output channels stay."""
        return self.producer.weight.name


def producers(known: Known) -> Iterator[WeightUse]:
    """The ops that make channels, in the order of the graph's ops."""
    return (use for use in weight_uses(known) if use.groups == 1 and use.outputs > 1)


def chain_of(known: Known, producer: WeightUse) -> Chain | Refusal:
    """What goes together with the output channels of `producer`, or the first reason why they must stay."""
    return _Walk(known, producer).run()


def chains(known: Known) -> list[Chain | Refusal]:
    """One answer for each producer."""
    return [chain_of(known, producer) for producer in producers(known)]


class _Walk:
    """Follows the channels of one producer, op by op in topological order."""

    def __init__(self, known: Known, producer: WeightUse) -> None:
        self.known = known
        self.producer = producer
        self.position = {op: index for index, op in enumerate(known.graph.ops())}
        self.places: dict[Value, Place] = {}
        self.carriers: list[tuple[Op, Carried]] = []
        self.consumers: list[Consumer] = []
        self.waiting: list[tuple[int, Op]] = []

    def run(self) -> Chain | Refusal:
        """The chain, or the first reason against it."""
        made = self.producer.op.output
        rank, bias = self.known.rank(made), self.producer.bias
        reason = "the rank of its output is not known"
        if bias is not None and self.known.constant(bias) is None:
            reason = f"its bias {bias.name!r} is computed at run time"
        elif rank is not None:
            place = Place(self.producer.output_axis, self.producer.outputs, 1, rank)
            reason = self._arrive(made, place) or self._follow() or ""
        if not reason and not self.consumers:
            reason = "no weighted op reads it"
        if reason:
            return Refusal(self.producer, reason)
        carriers, consumers = tuple(self.carriers), tuple(self.consumers)
        return Chain(self.producer, self.producer.outputs, carriers, consumers, tuple(self.places.items()))

    def _arrive(self, value: Value, place: Place) -> str | None:
        """Notes where the channels lie in a value, and queues its readers."""
        if value in self.known.graph.outputs:
            return f"{value.name!r} is an output of the model"
        self.places[value] = place
        for op in self.known.graph.consumers(value):
            entry = (self.position[op], op)
            if entry not in self.waiting:
                heapq.heappush(self.waiting, entry)
        return None

    def _follow(self) -> str | None:
        while self.waiting:
            _, op = heapq.heappop(self.waiting)
            if reason := self._visit(op):
                return reason
        return None

    def _visit(self, op: Op) -> str | None:
        """Makes `op` a consumer or a carrier, or says why it is neither."""
        data = next((value for value in op.inputs if value in self.places), None)
        if data is None:
            return f"{op} reads it inside a body"
        place = self.places[data]
        use = weight_use(self.known, op)
        if use is not None and use.data is data and use.groups == 1:
            if use.data_axis != place.axis:
                return f"{op} sums over another axis than the channels"
            self.consumers.append(Consumer(use, place.stride))
            return None
        rule = channel_rules.get(op)
        if rule is None:
            return f"{op} has no rule for channels"
        for value in op.inputs:
            if value is not None and value not in self.places and self.known.constant(value) is None:
                return f"{op} joins it with {value.name!r}, which is made elsewhere"
        if len({self.places[value] for value in op.inputs if value in self.places}) > 1:
            return f"{op} joins it with itself at another place"
        carried = rule(self.known, op, place)
        if isinstance(carried, str):
            return carried
        rank = self.known.rank(op.output)
        if rank is None:
            return f"the rank of {op.output.name!r} is not known"
        self.carriers.append((op, carried))
        return self._arrive(op.output, Place(carried.axis, place.channels, carried.stride, rank))
