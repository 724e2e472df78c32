"""Ways to write attention and mixtures of experts that `transformers` does not have, and recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from helpers.zoo_torch import Recipe, ids, normal
from torch import Tensor, nn
from torch.nn import functional


class PackedAttention(nn.Module):
    """One linear layer gives query, key and value as [batch, token, 3, head, size], cut apart by `unbind`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        batch, tokens, width = value.shape
        packed = self.qkv(value).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, content = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, content)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class TorchAttention(nn.Module):
    """torch's own MultiheadAttention, whose three projections are rows of one parameter."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, value: Tensor) -> Tensor:
        return self.inner(value, value, value, need_weights=False)[0]


class Vit(nn.Module):
    """Dosovitskiy et al. 2021, with the attention that is given."""

    def __init__(self, attention: type[nn.Module], sizes: dict[str, Any]) -> None:
        super().__init__()
        width, patch, tokens = sizes["width"], sizes["patch"], sizes["tokens"]
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.layers = nn.ModuleList()
        for _ in range(sizes["layers"]):
            mix = nn.Sequential(nn.LayerNorm(width), attention(width, sizes["heads"]))
            up, down = nn.Linear(width, sizes["hidden"]), nn.Linear(sizes["hidden"], width)
            self.layers += [mix, nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, sizes["classes"])

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        value = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.position
        for layer in self.layers:
            value = value + layer(value)
        return self.head(self.norm(value)[:, 0])


class Expert(nn.Module):
    """A gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, value: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(value)) * self.up(value))


class Experts(nn.Module):
    """A mixture of the experts that a router likes best, each with weights of its own (Jiang et al. 2024, section 2.1).

    Args:
        sizes: width, hidden, experts, and `chosen`, how many experts see a token.
        routed: an expert computes the tokens that were sent to it; otherwise each computes all of them, and the
            router's weights are zero where it was not chosen.
    """

    def __init__(self, sizes: dict[str, int], routed: bool) -> None:
        super().__init__()
        self.routed, self.chosen = routed, sizes["chosen"]
        self.router = nn.Linear(sizes["width"], sizes["experts"], bias=False)
        self.experts = nn.ModuleList(Expert(sizes["width"], sizes["hidden"]) for _ in range(sizes["experts"]))

    def forward(self, value: Tensor) -> Tensor:
        flat = value.reshape(-1, value.shape[-1])
        weights, chosen = self.router(flat).softmax(-1).topk(self.chosen, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        mixed = self._route(flat, weights, chosen) if self.routed else self._weigh(flat, weights, chosen)
        return mixed.reshape(value.shape)

    def _weigh(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        shares = torch.zeros(len(flat), len(self.experts)).scatter(1, chosen, weights)
        return sum(expert(flat) * shares[:, index, None] for index, expert in enumerate(self.experts))

    def _route(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        mixed = torch.zeros_like(flat)
        sent = functional.one_hot(chosen, len(self.experts)).permute(2, 1, 0)
        for index, expert in enumerate(self.experts):
            place, token = torch.where(sent[index])
            mixed = mixed.index_add(0, token, expert(flat[token]) * weights[token, place, None])
        return mixed


class MixtureModel(nn.Module):
    """Embedding, two residual mixtures of experts, a linear head."""

    def __init__(self, sizes: dict[str, int], routed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(sizes["vocabulary"], sizes["width"])
        self.norms = nn.ModuleList(nn.LayerNorm(sizes["width"]) for _ in range(2))
        self.mixtures = nn.ModuleList(Experts(sizes, routed) for _ in range(2))
        self.head = nn.Linear(sizes["width"], sizes["vocabulary"], bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        value = self.embed(input_ids)
        for norm, mixture in zip(self.norms, self.mixtures, strict=True):
            value = value + mixture(norm(value))
        return self.head(value)


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers over time, then a classifier of the last step."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.recurrent = kind(inputs, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.recurrent(frames)[0][:, -1])


def vit_packed(small: bool) -> Recipe:
    return _vit(PackedAttention, small)


def vit_torch(small: bool) -> Recipe:
    return _vit(TorchAttention, small)


def experts_dense(small: bool) -> Recipe:
    return _mixture(small, routed=False)


def experts_routed(small: bool) -> Recipe:
    return _mixture(small, routed=True)


def lstm(small: bool) -> Recipe:
    return _recurrent(nn.LSTM, small)


def gru(small: bool) -> Recipe:
    return _recurrent(nn.GRU, small)


def _vit(attention: type[nn.Module], small: bool) -> Recipe:
    sizes = {"width": 768, "heads": 12, "hidden": 3072, "layers": 12, "patch": 16, "tokens": 196, "classes": 1000}
    if small:
        sizes = {"width": 60, "heads": 5, "hidden": 112, "layers": 2, "patch": 4, "tokens": 42, "classes": 11}
    shape = (2, 3, 24, 28) if small else (1, 3, 224, 224)
    return Recipe(Vit(attention, sizes), {"image": normal(*shape)}, ("logits",), symbols={"image": {0: "batch"}})


def _mixture(small: bool, routed: bool) -> Recipe:
    sizes = {"width": 768, "hidden": 1024, "experts": 8, "chosen": 2, "vocabulary": 32000}
    if small:
        sizes = {"width": 60, "hidden": 44, "experts": 5, "chosen": 2, "vocabulary": 97}
    inputs = {"input_ids": ids(sizes["vocabulary"], *((3, 11) if small else (1, 128)))}
    axes = {"input_ids": {0: "batch", 1: "sequence"}}
    return Recipe(MixtureModel(sizes, routed), inputs, ("logits",), symbols=axes)


def _recurrent(kind: type[nn.RNNBase], small: bool) -> Recipe:
    module = Recurrent(kind, 14, 20, 11) if small else Recurrent(kind, 80, 512, 1000)
    return Recipe(module, {"frames": normal(3, 9, 14) if small else normal(1, 100, 80)}, ("logits",))
