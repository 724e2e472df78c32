"""Convolutional networks that `transformers` has not, in plain torch: VGG, DenseNet, ShuffleNet V2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers.zoo_torch import Recipe, normal
from torch import Tensor, nn


class Vgg(nn.Module):
    """Simonyan and Zisserman 2015: stages of 3x3 convolutions, then three linear layers behind a Flatten."""

    def __init__(self, stages: Sequence[Sequence[int]], pooled: tuple[int, int], widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for stage in stages:
            for outputs in stage:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pooled))
        inputs *= pooled[0] * pooled[1]
        linear: list[nn.Module] = []
        for outputs in widths:
            linear += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout()]
            inputs = outputs
        self.classifier = nn.Sequential(*linear[:-2])

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).flatten(1))


class DenseNet(nn.Module):
    """Huang et al. 2017: each layer reads all that came before it in its block, concatenated."""

    def __init__(self, growth: int, blocks: Sequence[int], stem: int, neck: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        width = stem
        for index, count in enumerate(blocks):
            layers = [self._layer(width + growth * i, neck * growth, growth) for i in range(count)]
            self.blocks.append(nn.ModuleList(layers))
            width += growth * count
            if index + 1 < len(blocks):
                shrink = (*_norm(width), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2))
                self.transitions.append(nn.Sequential(*shrink))
                width //= 2
        self.norm = nn.Sequential(*_norm(width))
        self.classifier = nn.Linear(width, classes)

    @staticmethod
    def _layer(inputs: int, neck: int, growth: int) -> nn.Module:
        narrow = nn.Conv2d(inputs, neck, 1, bias=False)
        return nn.Sequential(*_norm(inputs), narrow, *_norm(neck), nn.Conv2d(neck, growth, 3, padding=1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        value = self.stem(image)
        for index, layers in enumerate(self.blocks):
            known = [value]
            for layer in layers:
                known.append(layer(torch.cat(known, 1)))
            value = torch.cat(known, 1)
            if index < len(self.transitions):
                value = self.transitions[index](value)
        return self.classifier(self.norm(value).mean((2, 3)))


class ShuffleUnit(nn.Module):
    """Ma et al. 2018, figure 3 c and d: half the channels pass by, both halves are joined and shuffled."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        self.left = nn.Sequential(*_depthwise(inputs, stride), *_pointwise(inputs, half)) if stride > 1 else None
        inputs = inputs if stride > 1 else half
        self.right = nn.Sequential(*_pointwise(inputs, half), *_depthwise(half, stride), *_pointwise(half, half))

    def forward(self, value: Tensor) -> Tensor:
        left, right = (self.left(value), value) if self.left is not None else value.chunk(2, 1)
        joined = torch.cat([left, self.right(right)], 1)
        batch, channels, height, width = joined.shape
        shuffled = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return shuffled.reshape(batch, channels, height, width)


class ShuffleNet(nn.Module):
    """Ma et al. 2018, table 5."""

    def __init__(self, repeats: Sequence[int], widths: Sequence[int], classes: int) -> None:
        super().__init__()
        stem, *stages, last = widths
        layers = [*_bn_conv(3, stem, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        inputs = stem
        for count, outputs in zip(repeats, stages, strict=True):
            layers += [ShuffleUnit(inputs, outputs, 2), *(ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1))]
            inputs = outputs
        self.features = nn.Sequential(*layers, *_pointwise(inputs, last))
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.features(image).mean((2, 3)))


def vgg16(small: bool) -> Recipe:
    if small:
        return _images(Vgg([[12, 12], [20, 20], [28, 28, 28]], (2, 3), [52, 44, 11]), (32, 48))
    stages = [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    return _images(Vgg(stages, (7, 7), [4096, 4096, 1000]), (224, 224))


def densenet121(small: bool) -> Recipe:
    if small:
        return _images(DenseNet(6, (3, 4, 2), 10, 3, 11), (64, 96))
    return _images(DenseNet(32, (6, 12, 24, 16), 64, 4, 1000), (224, 224))


def shufflenet_v2(small: bool) -> Recipe:
    if small:
        return _images(ShuffleNet((2, 3, 2), (10, 20, 44, 36, 60), 11), (64, 96))
    return _images(ShuffleNet((4, 8, 4), (24, 116, 232, 464, 1024), 1000), (224, 224))


def _images(module: nn.Module, size: tuple[int, int]) -> Recipe:
    inputs = {"image": normal(1 if size[0] > 200 else 3, 3, *size)}
    return Recipe(module, inputs, ("logits",), symbols={"image": {0: "batch"}})


def _norm(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


def _bn_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def _depthwise(width: int, stride: int) -> tuple[nn.Module, ...]:
    return _bn_conv(width, width, 3, stride, width)


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return *_bn_conv(inputs, outputs, 1), nn.ReLU()
