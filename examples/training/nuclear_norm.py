"""Training towards low rank: a sub-gradient of the nuclear norm in every step, a truncation now and then.

    python examples/training/nuclear_norm.py [--quick]

Y. Xu, Y. Li, S. Zhang, W. Wen, B. Wang, W. Dai, Y. Qi, Y. Chen, W. Lin, H. Xiong, "Trained Rank Pruning for Efficient
Deep Neural Networks", 2019, section 3: weights are cut to the rank that holds a share of their energy every few steps,
and training in between goes on from there, so that the network gets used to it; the sub-gradient keeps singular values
that went from coming back. What comes of it `factorize` splits in two without loss. Copy `add_nuclear_subgradient` and
`truncate`; the rest shows them on a small network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import common
import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
"""Singular values below this share of the largest one are zero."""


def matrix_of(weight: Tensor) -> Tensor:
    """[outputs, inputs * kernel], whose rank is how many channels a convolution in between needs."""
    return weight.reshape(len(weight), -1)


def nuclear_subgradient(weight: Tensor) -> Tensor:
    """The sub-gradient U V^T of the sum of singular values, shaped like the weight, over those that are not zero.

    G. Watson, "Characterization of the Subdifferential of Some Matrix Norms", 1992, theorem 2 (the smallest element).
    """
    left, values, right = torch.linalg.svd(matrix_of(weight), full_matrices=False)
    inside = values > EPSILON * values[0]
    return (left[:, inside] @ right[inside]).view_as(weight)


@torch.no_grad()  # type: ignore[untyped-decorator]
def add_nuclear_subgradient(weights: Iterable[nn.Parameter], strength: float = 3e-4) -> None:
    """Adds `strength` times the sub-gradient to the gradient of each weight: call it behind `backward()`."""
    for weight in weights:
        if weight.grad is not None:
            weight.grad += strength * nuclear_subgradient(weight)


@torch.no_grad()  # type: ignore[untyped-decorator]
def truncate(weights: Iterable[nn.Parameter], energy: float = 0.9) -> list[int]:
    """Cuts each weight to the least rank that holds this share of the squares of its singular values; these ranks."""
    ranks = []
    for weight in weights:
        left, values, right = torch.linalg.svd(matrix_of(weight), full_matrices=False)
        held = (values**2).cumsum(0) / (values**2).sum()
        rank = min(int((held < energy).sum()) + 1, len(values))
        weight.copy_(((left[:, :rank] * values[:rank]) @ right[:rank]).view_as(weight))
        ranks.append(rank)
    return ranks


def train(network: nn.Module, split: common.Split, epochs: int, every: int, strength: float) -> list[int]:
    """Trains on, with both; the ranks that the inner layers have in the end."""
    weights = low_rank_weights(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    steps, step = epochs * (len(split) // common.BATCH), 0
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for images, labels in split.batches():
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            add_nuclear_subgradient(weights, strength)
            optimizer.step()
            schedule.step()
            step += 1
            if step % every == 0:
                truncate(weights)
    network.eval()
    ranks: list[int] = truncate(weights)
    return ranks


def low_rank_weights(network: nn.Module) -> list[nn.Parameter]:
    """The weights of all linear layers and convolutions but the first and the last."""
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    return [layer.weight for layer in layers[1:-1]]


def saving(network: nn.Module, ranks: Iterable[int]) -> float:
    """The share of multiplications at these ranks that goes, of what layers have where two cost what one does."""
    layers = [one.weight for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    rank_of = {id(weight): rank for weight, rank in zip(low_rank_weights(network), ranks, strict=True)}
    kept = whole = 0
    for weight in layers:
        price = sum(matrix_of(weight).shape)
        even = max(1, weight.numel() // price)
        kept += price * min(rank_of.get(id(weight), even), even)
        whole += price * even
    return 1 - kept / whole


def main() -> None:
    """Trains a network, makes its rank low, and splits its layers."""
    options = common.start(__doc__)
    split, test = common.fashion(options.choose(10_000, 30_000))
    dense = common.SmallNet()
    common.fit(dense, split, options.choose(2, 3))
    low = copy.deepcopy(dense)
    ranks = train(low, split, options.choose(2, 4), every=20, strength=1e-3)
    print("ranks", ranks, "of", [min(matrix_of(one).shape) for one in low_rank_weights(low)])

    recipe = f"factorize{{ratio={saving(low, ranks) - 1e-6:.6f}, allocation=global, align=1, worthwhile=0.95}}"
    before = common.accuracy(dense, test)
    graph = common.export(low)
    graph.save(options.output / "nuclear_norm.onnx")
    outcome, _ = common.operate(before, low, graph, recipe, test)
    plain, _ = common.operate(before, dense, common.export(dense), recipe, test)
    print(f"the same of the dense network, untrained for it: {100 * plain.small:.2f} %")
    outcome.show(options.seconds())


if __name__ == "__main__":
    main()
