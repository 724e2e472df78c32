"""Movement pruning: weights that training moves towards zero go, not those that are small.

    python examples/training/movement.py [--quick]

V. Sanh, T. Wolf, A. Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, section 3: every weight has a
score, only the highest share of them is used, and the gradient of a weight in use, times the weight, is that of its
score, whether it is in use or not. The share falls along a cubic (M. Zhu, S. Gupta, "To Prune, or Not to Prune", 2017,
section 2). Copy `Movement`; the rest shows it on a small network.
"""

from __future__ import annotations

from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


class _Highest(torch.autograd.Function):  # type: ignore[misc]
    """Ones at the highest share of the scores, zeros elsewhere; gradients go through as they come."""

    @staticmethod
    def forward(context: Any, scores: Tensor, share: float) -> Tensor:
        """Scores of any shape become a mask of that shape."""
        count = max(1, round(share * scores.numel()))
        mask = torch.zeros_like(scores).flatten()
        mask[scores.flatten().argsort(descending=True, stable=True)[:count]] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Straight through."""
        return gradients[0], None


class Movement(nn.Module):  # type: ignore[misc]
    """A parametrization of a weight: `register_parametrization(layer, "weight", Movement(layer.weight))`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores, self.share = nn.Parameter(torch.zeros_like(weight)), 1.0

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as it is used."""
        return weight * self.mask()

    def mask(self) -> Tensor:
        """Ones where the weight is used."""
        return _Highest.apply(self.scores, self.share)


def cubic(done: float, share: float) -> float:
    """The share that is used when so much of training is done: all in the first tenth, `share` in the last three."""
    left = 1 - min(1.0, max(0.0, (done - 0.1) / 0.6))
    return share + (1 - share) * left**3


def train(network: nn.Module, masks: list[Movement], split: common.Split, epochs: int, share: float) -> None:
    """Trains weights and scores together."""
    scores = [mask.scores for mask in masks]
    weights = [one for name, one in network.named_parameters() if not name.endswith(".scores")]
    optimizer = torch.optim.Adam([{"params": weights, "lr": 1e-3}, {"params": scores, "lr": 1e-2}])
    steps, step = epochs * (len(split) // common.BATCH), 0
    network.train()
    for _ in range(epochs):
        for images, labels in split.batches():
            for mask in masks:
                mask.share = cubic(step / steps, share)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            step += 1
    network.eval()


def main() -> None:
    """Trains a network, then masks on it, writes both, and takes out what nothing reads behind the zeros."""
    options = common.start(__doc__)
    split, test = common.fashion(options.choose(10_000, 30_000))
    network = common.SmallNet()
    common.fit(network, split, options.choose(2, 3))
    before = common.accuracy(network, test)

    layers = {"conv2": network.conv2, "fc1": network.fc1, "fc2": network.fc2}
    moved = {name: Movement(layer.weight) for name, layer in layers.items()}
    for name, layer in layers.items():
        parametrize.register_parametrization(layer, "weight", moved[name])
    train(network, list(moved.values()), split, options.choose(3, 6), share=0.1)

    plain = common.SmallNet()
    state = {name.replace("parametrizations.", "").replace(".original", ""): some for name, some in _weights(network)}
    plain.load_state_dict(state)
    graph = common.export(plain)
    masks = {f"{name}.weight": mask.mask().detach().bool().numpy() for name, mask in moved.items()}
    path = common.save(options, "movement", graph, masks)
    outcome, small = common.operate(before, network, graph, f'apply-masks{{file="{path}", remove=true}}', test)
    zeros = sum(int((one.const.numpy() == 0).sum()) for one in small.constants() if one.const is not None)
    print(f"{zeros:,} of the parameters that stay are zero")
    outcome.show(options.seconds())


def _weights(network: nn.Module) -> list[tuple[str, Tensor]]:
    """What is trained and counted, but for the scores."""
    return [(name, some) for name, some in network.state_dict().items() if not name.endswith(".scores")]


if __name__ == "__main__":
    main()
