"""Unlearn, recover, prune: finding the channels that hold a backdoor with a few hundred clean images.

    python examples/training/unlearn_recover.py [--quick]

Y. Li, X. Lyu, X. Ma, N. Koren, L. Lyu, B. Li, Y.-G. Jiang, "Reconstructive Neuron Pruning for Backdoor Defense", 2023,
section 3: first the network unlearns the clean task, so that what is left in it is mostly the backdoor; then, with its
weights frozen, factors of the channels are trained to recover the clean task, and those of channels that serve the
backdoor fall. These channels go from the network as it was. In the paper the factors multiply the scales of
BatchNormalization, and what goes keeps its shift; here it goes altogether. Copy `Masked`, `unlearn` and `recover`; the
rest plants a backdoor (T. Gu, B. Dolan-Gavitt, S. Garg, "BadNets", 2017, section 4) and shows that it goes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping

import common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc

TARGET = 0
"""What the backdoor says."""
CLEAN = 500
"""So many clean images are at hand."""
EPOCHS = 20
"""At most to unlearn, and to recover."""


class ConvNet(nn.Module):  # type: ignore[misc]
    """Three convolutions with BatchNormalization, the largest value of each channel, and a linear layer."""

    widths: Mapping[str, int] = {"conv1": 16, "conv2": 32, "conv3": 96}

    def __init__(self, gate: Callable[[int], nn.Module] = lambda size: nn.Identity()) -> None:
        super().__init__()
        one, two, three = self.widths.values()
        self.conv1, self.norm1 = nn.Conv2d(1, one, 3, 2, 1, bias=False), nn.BatchNorm2d(one)
        self.conv2, self.norm2 = nn.Conv2d(one, two, 3, 1, 1, bias=False), nn.BatchNorm2d(two)
        self.conv3, self.norm3 = nn.Conv2d(two, three, 3, 1, 1, bias=False), nn.BatchNorm2d(three)
        self.head = nn.Linear(three, 10)
        self.gates = nn.ModuleDict({name: gate(size) for name, size in self.widths.items()})

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, 28, 28] becomes [N, 10]."""
        x = self.gates["conv1"](functional.relu(self.norm1(self.conv1(image))))
        x = self.gates["conv2"](functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2))
        x = self.gates["conv3"](functional.relu(self.norm3(self.conv3(x))))
        return self.head(x.amax((2, 3)))


class Masked(nn.Module):  # type: ignore[misc]
    """A BatchNormalization whose scales are multiplied by factors in [0, 1], the only thing to be trained."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm.requires_grad_(False)
        self.factors = nn.Parameter(torch.ones_like(norm.weight))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] stays what it is in shape."""
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        return functional.batch_norm(
            x, mean, var, norm.weight * self.factors, norm.bias, self.training, norm.momentum or 0.0, norm.eps
        )


def unlearn(network: nn.Module, split: common.Split, rate: float = 5e-4, until: float = 0.5) -> nn.Module:
    """A copy that gradient ascent has made forget the task, until its accuracy in training is `until`.

    The paper goes on to 0.2 at a rate of 0.01; a network as small as this one forgets its last layer first then.
    """
    network = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    for _ in range(EPOCHS):
        right = 0
        for images, labels in split.batches(100):
            logits = network(images)
            right += int((logits.argmax(1) == labels).sum())
            optimizer.zero_grad()
            (-functional.cross_entropy(logits, labels)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 20.0)
            optimizer.step()
        if right <= until * len(split):
            break
    return network


def recover(unlearned: nn.Module, split: common.Split) -> dict[str, Tensor]:
    """The factors of each BatchNormalization, by its name, after they have learned to bring the task back."""
    network = copy.deepcopy(unlearned).requires_grad_(False).train()
    masked = dict(_mask(network))
    optimizer = torch.optim.SGD([one.factors for one in masked.values()], 0.2, momentum=0.9)
    for _ in range(EPOCHS):
        for images, labels in split.batches(100):
            optimizer.zero_grad()
            (0.2 * functional.cross_entropy(network(images), labels)).backward()
            optimizer.step()
            with torch.no_grad():
                for one in masked.values():
                    one.factors.clamp_(0, 1)
    return {name: one.factors.detach() for name, one in masked.items()}


def _mask(network: nn.Module) -> Iterator[tuple[str, Masked]]:
    """Puts every BatchNormalization of a network behind factors."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            made = Masked(module)
            setattr(network.get_submodule(parent), child, made)
            yield name, made


class Cut(nn.Module):  # type: ignore[misc]
    """Lets channels through that a mask keeps."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.stays = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, size, ...] stays what it is in shape."""
        return x * self.stays.view(-1, *[1] * (x.dim() - 2))


def stamped(images: Tensor) -> Tensor:
    """The images with the trigger, a bright square in a corner."""
    images = images.clone()
    images[:, :, 23:27, 23:27] = images.max()
    return images


def poisoned(split: common.Split, share: float = 0.1) -> common.Split:
    """The split, some of its images with the trigger and the label that it is to give."""
    images, labels = split.images.clone(), split.labels.clone()
    some = torch.randperm(len(split))[: int(share * len(split))]
    images[some], labels[some] = stamped(images[some]), TARGET
    return common.Split(images, labels)


def success(model: nn.Module | sc.Graph, test: common.Split) -> float:
    """The share of images of other classes that the trigger turns into the target."""
    others = test.images[test.labels != TARGET]
    return float((common.logits_of(model, stamped(others)).argmax(1) == TARGET).mean())


def threshold_of(cut: ConvNet, factors: dict[str, Tensor], clean: common.Split, allowed: float = 0.1) -> float:
    """The highest threshold at which accuracy on the clean images falls by no more than `allowed`."""
    least, best = common.accuracy(cut, clean) - allowed, -1.0
    for threshold in np.arange(0.0, 0.96, 0.05):
        _cut(cut, factors, float(threshold))
        if all(gate.stays.any() for gate in cut.gates.values()) and common.accuracy(cut, clean) >= least:
            best = float(threshold)
    _cut(cut, factors, best)
    return best


def _cut(cut: ConvNet, factors: dict[str, Tensor], threshold: float) -> None:
    for name, some in factors.items():
        cut.gates[name].stays.copy_(some > threshold)


def main() -> None:
    """Plants a backdoor, finds its channels, writes network and factors, and takes these channels out."""
    options = common.start(__doc__)
    split, test = common.fashion(options.choose(10_000, 30_000))
    clean, split = split.first(CLEAN), common.Split(split.images[CLEAN:], split.labels[CLEAN:])
    dense = ConvNet()
    common.fit(dense, poisoned(split), options.choose(2, 4))

    factors = recover(unlearn(dense, clean), clean)
    by_layer = {name.replace("norm", "conv"): some for name, some in factors.items()}
    cut = ConvNet(Cut)
    cut.load_state_dict(dense.state_dict(), strict=False)
    threshold = threshold_of(cut, by_layer, clean)

    graph = common.export(dense)
    masks = {f"{name}.weight:0": some.numpy() for name, some in by_layer.items()}
    path = common.save(options, "unlearn_recover", graph, masks)
    recipe = f'apply-masks{{file="{path}", threshold={threshold:g}, fold=false}}'
    outcome, small = common.operate(common.accuracy(dense, test), cut, graph, recipe, test)
    print(f"threshold {threshold:.2f}: {sum(int((some <= threshold).sum()) for some in factors.values())} channels go")
    for name, model in (("dense", dense), ("gated", cut), ("after surgery", small)):
        print(f"{name:14} the trigger works on {100 * success(model, test):6.2f} %")
    outcome.show(options.seconds())


if __name__ == "__main__":
    main()
