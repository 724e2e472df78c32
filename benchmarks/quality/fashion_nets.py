"""More networks for Fashion-MNIST, trained in minutes: a VGG, a small vision transformer, and one with experts.

    python benchmarks/quality/fashion_nets.py vgg|vit|experts OUTPUT.onnx [--threads 1]

As `examples/fashion_mnist/train.py` trains its ResNet: on the training split alone, settings fixed beforehand, the last
state is the result. Needs torch, onnxscript and onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "examples" / "fashion_mnist"), str(ROOT / "tests")]

from data import load  # noqa: E402
from helpers.zoo_attention import Experts, PackedAttention  # noqa: E402
from train import BATCH, augment, export, logits_of  # noqa: E402

BALANCE = 0.01
"""Weight of the loss that keeps experts equally busy (Fedus et al. 2022, "Switch Transformers", equation 4)."""


class Vgg(nn.Module):
    """Simonyan and Zisserman 2015 in small: three stages of two convolutions, each with its norm, two linear layers."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), hidden: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for outputs in widths:
            for _ in range(2):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(inputs * 9, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [N, 1, 28, 28] become logits [N, 10]."""
        return self.classifier(self.features(image).flatten(1))


class Mixture(Experts):
    """Eight experts for any number of images: where the tests' module writes `len`, an export fixes the batch."""

    def _weigh(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        shares = flat.new_zeros(flat.shape[0], len(self.experts)).scatter(1, chosen, weights)
        return sum(expert(flat) * shares[:, index, None] for index, expert in enumerate(self.experts))


class MixtureVit(nn.Module):
    """A vision transformer of two blocks on 16 patches with eight experts each, two of which see a patch."""

    def __init__(self, width: int = 64, hidden: int = 96, experts: int = 8) -> None:
        super().__init__()
        sizes = {"width": width, "hidden": hidden, "experts": experts, "chosen": 2}
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.attentions = nn.ModuleList(PackedAttention(width, 4) for _ in range(2))
        self.mixtures = nn.ModuleList(Mixture(sizes, routed=False) for _ in range(2))
        self.head = nn.Linear(width, 10)
        self.imbalance = torch.zeros(())

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [N, 1, 28, 28] become logits [N, 10]."""
        value = self.patches(image).flatten(2).transpose(1, 2) + self.position
        uneven = []
        for index, (attention, mixture) in enumerate(zip(self.attentions, self.mixtures, strict=True)):
            value = value + attention(self.norms[2 * index](value))
            read = self.norms[2 * index + 1](value)
            if self.training:
                uneven.append(unevenness(mixture, read))
            value = value + mixture(read)
        if self.training:
            self.imbalance = torch.stack(uneven).sum()
        return self.head(self.norms[4](value).mean(1))


class Vit(nn.Module):
    """A vision transformer of four blocks on 16 patches."""

    def __init__(self, width: int = 64, hidden: int = 192, blocks: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, 7)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks + 1))
        self.attentions = nn.ModuleList(PackedAttention(width, 4) for _ in range(blocks))
        self.expansions = nn.ModuleList(nn.Linear(width, hidden) for _ in range(blocks))
        self.contractions = nn.ModuleList(nn.Linear(hidden, width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [N, 1, 28, 28] become logits [N, 10]."""
        value = self.patches(image).flatten(2).transpose(1, 2) + self.position
        for index, attention in enumerate(self.attentions):
            value = value + attention(self.norms[2 * index](value))
            inside = functional.gelu(self.expansions[index](self.norms[2 * index + 1](value)))
            value = value + self.contractions[index](inside)
        return self.head(self.norms[-1](value).mean(1))


NETWORKS: dict[str, tuple[type[nn.Module], int]] = {"vgg": (Vgg, 4), "vit": (Vit, 4), "experts": (MixtureVit, 3)}
"""Network and epochs by name."""


def unevenness(mixture: Experts, read: Tensor) -> Tensor:
    """Experts times the sum over them of (share of tokens sent there) x (mean probability): 1 where all are equal."""
    probability = mixture.router(read).softmax(-1).flatten(0, 1)
    chosen = probability.topk(mixture.chosen, -1).indices
    share = functional.one_hot(chosen, probability.shape[-1]).float().mean((0, 1))
    return probability.shape[-1] * (share * probability.mean(0)).sum()


def train(network: nn.Module, epochs: int, rate: float, seed: int = 0) -> None:
    """AdamW, one-cycle rate, cross-entropy; augmentation and (for convolutions) bfloat16 as in the example."""
    torch.manual_seed(seed)
    images, labels = map(torch.from_numpy, load("train"))
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps, pct_start=0.25)
    network.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        start, total, order = time.monotonic(), 0.0, torch.randperm(len(images))
        for chosen in order[: steps * BATCH].view(steps, BATCH):
            batch = augment(images[chosen]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=isinstance(network, Vgg)):
                logits = network(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen])
            total += loss.item()
            if isinstance(network, MixtureVit):
                loss = loss + BALANCE * network.imbalance
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    network.to(memory_format=torch.contiguous_format).eval()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=tuple(NETWORKS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    kind, epochs = NETWORKS[options.network]
    network = kind()
    train(network, epochs, rate=3e-3)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    export(network, options.output)
    images, labels = load("test")
    print(f"test accuracy: {np.mean(logits_of(options.output, images).argmax(1) == labels):.2%}")


if __name__ == "__main__":
    main()
