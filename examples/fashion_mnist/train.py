"""Trains the example's network, a ResNet of 13 3 x 3 convolutions and 2 projections, and writes it as `resnet.onnx`.

    python examples/fashion_mnist/train.py [--epochs 9] [--seed 0] [--output resnet.onnx]

The result lies beside this file, so nobody has to run this before trying the library. Needs torch, onnxscript and
onnxruntime.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from data import load
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

BATCH = 128
PADDING = 2
"""Pixels by which a training image may be shifted."""


class Block(nn.Module):  # type: ignore[misc]
    """conv-bn-relu-conv-bn, added to the input, or to its 1 x 1 projection where the shape changes, then relu.

    K. He et al., "Deep Residual Learning for Image Recognition", 2015, section 3.3, figure 2 and option B.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] becomes [N, outputs, H / stride, W / stride]."""
        inner = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(x))


class ResNet(nn.Module):  # type: ignore[misc]
    """Three stages of two blocks, at 28 x 28, 14 x 14 and 7 x 7, then the mean over positions and a linear layer."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        blocks, inputs = [], widths[0]
        for stage, outputs in enumerate(widths):
            for index in range(depth):
                blocks.append(Block(inputs, outputs, stride=2 if stage > 0 and index == 0 else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images [N, 1, 28, 28] become logits [N, 10]."""
        x = functional.relu(self.stem_norm(self.stem(image)))
        return self.head(self.blocks(x).mean((2, 3)))


def augment(images: Tensor) -> Tensor:
    """Each image [1, 28, 28] is mirrored with probability 1/2 and shifted by up to PADDING pixels each way."""
    count, _, height, width = images.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    # The border repeats the background: zero would be a grey that no picture's edge has once it is normalised.
    padded = functional.pad(mirrored, (PADDING,) * 4, mode="replicate")[:, 0]
    rows = torch.randint(2 * PADDING + 1, (count, 1)) + torch.arange(height)
    columns = torch.randint(2 * PADDING + 1, (count, 1)) + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train(epochs: int, seed: int) -> ResNet:
    """A ResNet trained on the 60,000 training images alone: SGD with Nesterov momentum, one-cycle rate, bfloat16.

    L. Smith, "Super-Convergence", 2017, has the schedule. The last state is the result: nothing is chosen by score.
    """
    torch.manual_seed(seed)
    images, labels = map(torch.from_numpy, load("train"))
    network = ResNet()
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * steps, pct_start=0.25)
    for epoch in range(epochs):
        start, total, order = time.monotonic(), 0.0, torch.randperm(len(images))
        for chosen in order[: steps * BATCH].view(steps, BATCH):
            batch = augment(images[chosen]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, {time.monotonic() - start:.0f} s", flush=True)
    network.to(memory_format=torch.contiguous_format).eval()
    return network


def export(network: ResNet, path: Path) -> None:
    """Writes `network` as ONNX (opset 20, float32 weights inline): `image` [batch, 1, 28, 28] to `logits` [batch, 10].

    The exporter's notes (source lines, stack traces) are dropped: they name the machine that exported the model.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as scratch:
        draft = Path(scratch, path.name)
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 28, 28),),
            draft,
            dynamo=True,
            opset_version=20,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
        model = onnx.load(draft)
        for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, draft)
        os.replace(draft, path)


def logits_of(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The exported model's logits [N, 10] by onnxruntime on the CPU, 1,000 images at a time."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = np.split(images, range(1000, len(images), 1000))
    return np.concatenate([np.asarray(session.run(["logits"], {"image": part})[0], np.float32) for part in parts])


def main() -> None:
    """Trains, exports, and scores the exported file on the test split, where it must agree with torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("resnet.onnx"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    network = train(options.epochs, options.seed)
    print(f"trained in {time.monotonic() - start:.0f} s; {sum(p.numel() for p in network.parameters()):,} parameters")
    export(network, options.output)
    images, labels = load("test")
    logits = logits_of(options.output, images)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images[:1000])).numpy()
    np.testing.assert_allclose(logits[:1000], expected, rtol=1e-3, atol=1e-3)
    print(f"onnxruntime and torch differ by at most {np.abs(logits[:1000] - expected).max():.1e}")
    print(f"test accuracy of {options.output.name}: {np.mean(logits.argmax(1) == labels):.2%}")


if __name__ == "__main__":
    main()
