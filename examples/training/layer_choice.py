"""Gumbel layer choice: which layers of each local block a network recovers best without.

    python examples/training/layer_choice.py [--quick]

G. Fang, K. Li, X. Ma, X. Wang, "TinyFusion: Diffusion Transformers Learned Shallow", 2024, sections 3.2 and 3.3: of
every M layers in a row N stay. All C(M, N) ways to do so get a logit; each sample draws one by Gumbel-softmax, and the
logits are trained together with a small change of the weights, so that what counts is how well a choice can be
recovered from, not what is lost at once. Then the weights are put back, the most probable layers stay, and training
goes on without the others. Copy `LayerChoice` and `LowRank`; the rest shows them on a small residual network.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from secateur.grouping import group_report

SCALE = 100.0
"""What logits are multiplied by, so that the noise drowns them at first and not in the end."""


class LayerChoice(nn.Module):  # type: ignore[misc]
    """Draws which `keep` of `layers` layers run, for each sample by itself."""

    options: Tensor

    def __init__(self, layers: int, keep: int) -> None:
        super().__init__()
        ways = [[float(layer in kept) for layer in range(layers)] for kept in combinations(range(layers), keep)]
        self.register_buffer("options", torch.tensor(ways))
        self.logits = nn.Parameter(torch.full((len(ways),), 0.02))

    def draw(self, samples: int, temperature: float) -> Tensor:
        """[samples, layers] ones where a layer runs and zeros elsewhere; gradients are those of the soft choice."""
        logits = (SCALE * self.logits).expand(samples, -1)
        return functional.gumbel_softmax(logits, temperature, hard=True) @ self.options

    def chosen(self) -> Tensor:
        """[layers] the most probable choice."""
        return self.options[self.logits.argmax()]


class LowRank(nn.Module):  # type: ignore[misc]
    """A change of a weight by few numbers (E. Hu et al., "LoRA", 2021, section 4.1), none at first."""

    def __init__(self, weight: Tensor, rank: int = 4) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as it is used."""
        return weight + (self.up @ self.down).view_as(weight)


class Layer(nn.Module):  # type: ignore[misc]
    """conv-bn-relu-conv-bn, what is added to the trunk."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.second, self.last = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] stays what it is in shape."""
        return self.last(self.second(functional.relu(self.norm(self.first(x)))))


class DeepNet(nn.Module):  # type: ignore[misc]
    """A convolution, residual layers at 7 x 7, the mean over positions and a linear layer."""

    def __init__(self, depth: int = 8, width: int = 24) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 4, 4), nn.BatchNorm2d(width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor, runs: Tensor | None = None) -> Tensor:
        """[N, 1, 28, 28] becomes [N, 10]; `runs` [N or 1, depth] are the gates of layers, all open without them."""
        x = functional.relu(self.norm(self.stem(image)))
        for index, layer in enumerate(self.layers):
            inner = layer(x)
            x = x + (inner if runs is None else inner * runs[:, index, None, None, None])
        return self.head(functional.relu(x).mean((2, 3)))


class Chosen(nn.Module):  # type: ignore[misc]
    """A network that runs the chosen layers only."""

    runs: Tensor

    def __init__(self, network: DeepNet, runs: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("runs", runs)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, 28, 28] becomes [N, 10]."""
        return self.network(image, self.runs[None])


def choose(network: DeepNet, choices: nn.ModuleList, split: common.Split, epochs: int) -> Tensor:
    """Trains logits beside a change of the weights, which is thrown away; returns [depth] which layers stay."""
    proxy = DeepNet(len(network.layers))
    proxy.load_state_dict(network.state_dict())
    proxy.requires_grad_(False)
    changes = [*_changed(proxy)]
    optimizer = torch.optim.AdamW(
        [{"params": choices.parameters(), "lr": 2e-3}, {"params": changes, "lr": 1e-3}], weight_decay=0.0
    )
    steps, step = epochs * (len(split) // common.BATCH), 0
    proxy.train()
    for _ in range(epochs):
        for images, labels in split.batches():
            temperature = 4.0 + (0.1 - 4.0) * step / steps
            runs = torch.cat([choice.draw(len(images), temperature) for choice in choices], 1)
            optimizer.zero_grad()
            functional.cross_entropy(proxy(images, runs), labels).backward()
            nn.utils.clip_grad_norm_([*choices.parameters(), *changes], 1.0)
            optimizer.step()
            step += 1
    return torch.cat([choice.chosen() for choice in choices])


def _changed(network: DeepNet) -> Iterator[nn.Parameter]:
    """Gives each convolution of the layers a change of low rank; what of it can be trained."""
    for module in network.layers.modules():
        if isinstance(module, nn.Conv2d):
            change = LowRank(module.weight)
            parametrize.register_parametrization(module, "weight", change)
            yield from change.parameters()


def main() -> None:
    """Trains a network, then a choice of its layers; writes both, and takes out the layers that do not run."""
    options = common.start(__doc__)
    split, test = common.fashion(options.choose(6_000, 10_000))
    dense = DeepNet()
    common.fit(dense, split, options.choose(3, 4))
    before = common.accuracy(dense, test)

    choices = nn.ModuleList([LayerChoice(layers=4, keep=2) for _ in range(2)])
    runs = choose(dense, choices, split, options.choose(2, 3))
    gated = Chosen(dense, runs)
    print(f"layers that stay: {runs.nonzero().flatten().tolist()}; without training {_percent(gated, test)}")
    common.fit(gated, split, options.choose(1, 2), rate=1e-3)

    graph = common.export(dense)
    names = [row.name for row in group_report(graph).removable if row.part == "convolutions"]
    masks = dict(zip(names, np.asarray(runs.bool()), strict=True))
    path = common.save(options, "layer_choice", graph, masks)
    outcome, _ = common.operate(before, gated, graph, f'apply-masks{{file="{path}"}}', test)
    outcome.show(options.seconds())


def _percent(model: nn.Module, test: common.Split) -> str:
    return f"{100 * common.accuracy(model, test):.2f} %"


if __name__ == "__main__":
    main()
