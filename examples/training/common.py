"""What the examples of this folder share: data, a small network, scores, and the surgery that each of them ends in."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.inspection import macs_of

BATCH = 128


@dataclass(frozen=True)
class Options:
    """What every example takes from its command line: fewer images and epochs, a seed, where files go."""

    quick: bool
    seed: int
    output: Path
    began: float

    def choose(self, quick: int, normal: int) -> int:
        """One of two counts."""
        return quick if self.quick else normal

    def seconds(self) -> float:
        """Since the example began."""
        return time.monotonic() - self.began


def start(text: str | None) -> Options:
    """Reads the command line of an example and seeds torch."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images and epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("training-output"), help="where models and masks go")
    given = parser.parse_args()
    options = Options(given.quick, given.seed, given.output, time.monotonic())
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    return options


@dataclass(frozen=True)
class Split:
    """Images float32 [N, 1, 28, 28] and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Split:
        """The first `count` of them."""
        return Split(self.images[:count], self.labels[:count])

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them once, shuffled, in whole batches."""
        order = torch.randperm(len(self))
        for chosen in order[: len(self) // size * size].view(-1, size):
            yield self.images[chosen], self.labels[chosen]


def fashion(count: int) -> tuple[Split, Split]:
    """The first `count` training images of Fashion-MNIST, and all 10,000 test images."""
    sys.path.append(str(Path(__file__).parents[1] / "fashion_mnist"))
    from data import load

    train, test = (Split(*map(torch.from_numpy, load(name))) for name in ("train", "test"))
    return train.first(count), test


class SmallNet(nn.Module):  # type: ignore[misc]
    """Two convolutions with BatchNormalization and two linear layers, 28 x 28 grey images to ten logits.

    `gate(size)` makes what stands behind the activation of each inner layer, where the next layer reads it.
    """

    widths: Mapping[str, int] = {"conv1": 16, "conv2": 32, "fc1": 128}

    def __init__(self, gate: Callable[[int], nn.Module] = lambda size: nn.Identity()) -> None:
        super().__init__()
        one, two, three = self.widths.values()
        self.conv1, self.norm1 = nn.Conv2d(1, one, 3, 2, 1, bias=False), nn.BatchNorm2d(one)
        self.conv2, self.norm2 = nn.Conv2d(one, two, 3, 1, 1, bias=False), nn.BatchNorm2d(two)
        self.fc1, self.fc2 = nn.Linear(two * 49, three), nn.Linear(three, 10)
        self.gates = nn.ModuleDict({name: gate(size) for name, size in self.widths.items()})

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, 28, 28] becomes [N, 10]."""
        x = self.gates["conv1"](functional.relu(self.norm1(self.conv1(image))))
        x = self.gates["conv2"](functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2))
        x = self.gates["fc1"](functional.relu(self.fc1(x.flatten(1))))
        return self.fc2(x)

    def plain(self) -> SmallNet:
        """The network without its gates, the same weights in it."""
        twin = SmallNet()
        twin.load_state_dict({name: some for name, some in self.state_dict().items() if not name.startswith("gates.")})
        twin.eval()
        return twin


def fit(network: nn.Module, split: Split, epochs: int, rate: float = 2e-3) -> None:
    """Ordinary training: Adam, cross-entropy, a rate that falls to zero along a cosine."""
    optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], rate)
    steps = epochs * (len(split) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for images, labels in split.batches():
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            schedule.step()
    network.eval()


def export(network: nn.Module) -> sc.Graph:
    """The network in evaluation mode as a graph, `image` [batch, 1, 28, 28] to `logits` [batch, 10]."""
    batch = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, 1, 28, 28),)
    return sc.from_torch(
        network, example, dynamic_shapes=batch, input_names=["image"], output_names=["logits"], opset=20
    )


Logits = NDArray[np.float32]


def logits_of(model: nn.Module | sc.Graph, images: Tensor) -> Logits:
    """[N, 10], by torch in evaluation mode or by onnxruntime."""
    parts = images.split(1000)
    if isinstance(model, sc.Graph):
        with OnnxRuntimeRunner(model, threads=torch.get_num_threads()) as runner:
            return np.concatenate([runner.run({"image": part.numpy()})["logits"] for part in parts])
    model.eval()
    with torch.inference_mode():
        found: Logits = torch.cat([model(part) for part in parts]).numpy()
    return found


def accuracy(model: nn.Module | sc.Graph, split: Split) -> float:
    """The share of images whose largest logit is at their label."""
    return float((logits_of(model, split.images).argmax(1) == split.labels.numpy()).mean())


@dataclass(frozen=True)
class Outcome:
    """Accuracies on the test split, the largest difference of a logit between gated and small, and what went."""

    dense: float
    gated: float
    small: float
    difference: float
    parameters: tuple[int, int]
    macs: tuple[int, int]

    def show(self, seconds: float) -> None:
        """Prints it."""
        for name, value in (("dense", self.dense), ("gated", self.gated), ("after surgery", self.small)):
            print(f"{name:14} {100 * value:6.2f} %")
        print(f"largest difference of a logit, gated and after surgery: {self.difference:.1e}")
        for what, (before, after) in (("parameters", self.parameters), ("MACs an image", self.macs)):
            print(f"{what}: {before:,} to {after:,} ({100 * after / before:.0f} %)")
        print(f"{seconds:.0f} s")


def operate(dense: float, gated: nn.Module, graph: sc.Graph, recipe: str, test: Split) -> tuple[Outcome, sc.Graph]:
    """Runs a recipe over the exported network and compares what comes of it to the gated network in torch."""
    done = sc.compress(graph, recipe)
    expected, found = logits_of(gated, test.images), logits_of(done.graph, test.images)
    labels = test.labels.numpy()
    outcome = Outcome(
        dense,
        float((expected.argmax(1) == labels).mean()),
        float((found.argmax(1) == labels).mean()),
        float(np.abs(expected - found).max()),
        (_parameters(graph), _parameters(done.graph)),
        (macs_of(graph), macs_of(done.graph)),
    )
    return outcome, done.graph


def save(options: Options, name: str, graph: sc.Graph, masks: Mapping[str, NDArray[np.generic]]) -> Path:
    """Writes the exported network and its masks side by side; returns the path of the masks."""
    path = options.output / f"{name}.npz"
    graph.save(options.output / f"{name}.onnx")
    np.savez(path, **masks)  # type: ignore[arg-type]
    return path


def _parameters(graph: sc.Graph) -> int:
    return sum(one.const.size for one in graph.constants() if one.const is not None and one.const.dtype.is_float)
