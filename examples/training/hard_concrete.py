"""Hard-concrete gates that learn which units a network can do without, down to a size that was asked for.

    python examples/training/hard_concrete.py [--quick]

C. Louizos, M. Welling, D. Kingma, "Learning Sparse Neural Networks through L0 Regularization", 2018, section 2.2, has
the gate; Z. Wang, J. Wohlwend, T. Lei, "Structured Pruning of Large Language Models", 2020, section 3.3, and M. Xia,
Z. Zhong, D. Chen, "Structured Pruning Learns Compact and Accurate Models", 2022, section 3.2, the Lagrangian that
steers the size. Copy `HardConcrete` and `Lagrangian`; the rest shows them on a small network.
"""

from __future__ import annotations

import math

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""beta, gamma and zeta of Louizos et al. 2018, section 4."""
STEEPNESS = 0.8
"""How much nearer to 1/2 gates are when they are judged than when they are drawn (the code of Wang et al. 2020)."""


class HardConcrete(nn.Module):  # type: ignore[misc]
    """One gate in [0, 1] for each of `size` units, on axis 1 of what goes through; exactly zero with some probability.

    In training, gates are drawn anew for each batch; in evaluation they are `gates()`.
    """

    def __init__(self, size: int, closed: float = 0.01) -> None:
        """`closed` is the probability of a zero to begin with."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((size,), math.log((1 - closed) / closed)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, size, ...] becomes the same, each unit multiplied by its gate."""
        gates = self.draw() if self.training else self.gates()
        return x * gates.view(-1, *[1] * (x.dim() - 2))

    def draw(self) -> Tensor:
        """[size] random gates, differentiable by `log_alpha`."""
        uniform = torch.rand_like(self.log_alpha).clamp(1e-6, 1 - 1e-6)
        spread = torch.sigmoid((torch.logit(uniform) + self.log_alpha) / TEMPERATURE)
        return (spread * (HIGH - LOW) + LOW).clamp(0, 1)

    def open(self) -> Tensor:
        """[size] the probability that each gate is not zero; their sum is the expected L0 norm."""
        return torch.sigmoid(self.log_alpha - TEMPERATURE * math.log(-LOW / HIGH))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def gates(self) -> Tensor:
        """[size] the gates that are kept: the lowest are zero, as many as are expected to be; the rest stays soft."""
        soft = torch.sigmoid(STEEPNESS * self.log_alpha / TEMPERATURE)
        zeros = round(len(soft) - self.open().sum().item())
        return soft.scatter(0, soft.argsort()[: min(zeros, len(soft) - 1)], 0.0)


class Lagrangian(nn.Module):  # type: ignore[misc]
    """`first * (s - target) + second * (s - target)^2`; the multipliers climb as long as s is off its target.

    Optimize its parameters with `maximize=True`. The target grows from zero over the first `warmup` steps.
    """

    def __init__(self, target: float, warmup: int) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.target, self.warmup, self.steps = target, warmup, 0

    def forward(self, sparsity: Tensor) -> Tensor:
        """The expected sparsity, a number, becomes the penalty of this step."""
        self.steps += 1
        gap = sparsity - self.target * min(1.0, self.steps / self.warmup)
        return self.first * gap + self.second * gap**2


def expected_size(network: common.SmallNet) -> Tensor:
    """How many weight elements of the network are expected to be used."""
    one, two, three = (network.gates[name].open().sum() for name in network.widths)
    return 9 * one + 9 * one * two + 49 * two * three + 10 * three


def train(network: common.SmallNet, split: common.Split, epochs: int, target: float) -> None:
    """Trains weights and gates together until about `target` of all weight elements are gated away."""
    steps = epochs * (len(split) // common.BATCH)
    steer, whole = Lagrangian(target, steps // 2), expected_size(common.SmallNet(_Open)).item()
    gates = list(network.gates.parameters())
    weights = [one for name, one in network.named_parameters() if not name.startswith("gates.")]
    optimizer, opener = torch.optim.Adam(weights, 1e-3), torch.optim.Adam(gates, 0.1)
    climber = torch.optim.Adam(steer.parameters(), 0.3, maximize=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for images, labels in split.batches():
            sparsity = 1 - expected_size(network) / whole
            loss = functional.cross_entropy(network(images), labels) + steer(sparsity)
            for one in (optimizer, opener, climber):
                one.zero_grad()
            loss.backward()
            for one in (optimizer, opener, climber, schedule):
                one.step()
    print(f"expected sparsity {sparsity.item():.3f}, asked for {target}")
    network.eval()


class _Open(nn.Module):  # type: ignore[misc]
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def open(self) -> Tensor:
        return torch.ones(self.size)


def main() -> None:
    """Trains a network, then gates on it, writes both, and takes out what the gates hide."""
    options = common.start(__doc__)
    split, test = common.fashion(options.choose(10_000, 30_000))
    dense = common.SmallNet()
    common.fit(dense, split, options.choose(2, 3))
    gated = common.SmallNet(HardConcrete)
    gated.load_state_dict(dense.state_dict(), strict=False)
    train(gated, split, options.choose(4, 6), target=0.9)

    graph = common.export(gated.plain())
    masks = {f"{name}.weight:0": gate.gates().numpy() for name, gate in gated.gates.items()}
    path = common.save(options, "hard_concrete", graph, masks)
    for name, gates in masks.items():
        print(f"{name}: {np.count_nonzero(gates)} of {len(gates)} stay, gates up to {gates.max():.2f}")
    recipe = f'apply-masks{{file="{path}", threshold=0}}'
    outcome, _ = common.operate(common.accuracy(dense, test), gated, graph, recipe, test)
    outcome.show(options.seconds())


if __name__ == "__main__":
    main()
