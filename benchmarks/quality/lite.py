"""EfficientNet-Lite0, which knows ImageNet: calibrated on photographs that ship in packages, judged on others."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import numpy as np

from quality import methods
from quality.fetch import package_file
from quality.task import ROOT, Array, Feeds, Metric, Run, Task

sys.path.insert(0, str(ROOT / "tests"))

SIZE, CROPS, BATCH = 224, 4, 1
SKIMAGE, SKLEARN = ("scikit-image", "0.26.0"), ("scikit-learn", "1.9.1")
GRADIO, ULTRALYTICS = ("gradio", "6.31.0"), ("ultralytics", "8.4.190")
PHOTOGRAPHS = (
    *((*SKIMAGE, f"skimage/data/{name}") for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    (*SKIMAGE, "skimage/data/motorcycle_left.png"),
    *((*SKLEARN, f"sklearn/datasets/images/{name}") for name in ("china.jpg", "flower.jpg")),
    *((*ULTRALYTICS, f"ultralytics/assets/{name}") for name in ("bus.jpg", "zidane.jpg")),
    *((*GRADIO, f"gradio/media_assets/images/{name}") for name in ("cheetah.jpg", "lion.jpg", "tower.jpg")),
)
"""Twelve, none of which is among those that are judged on."""
FOOLBOX = ("foolbox", "3.3.4", "foolbox/data/imagenet_00_243.jpg")
METRICS = (
    Metric("top-1 of 20", ".0f", higher=True),
    Metric("NLL", ".2f"),
    Metric("logit error", ".3f"),
    Metric("agreement", ".2f", higher=True),
)


def model() -> Path:
    """The export of the test zoo; a batch of one."""
    from helpers.zoo import zoo

    return zoo("real")["efficientnet-lite0"].path()


def normalised(image: object) -> Array:
    """A picture of SIZE x SIZE becomes [1, 3, SIZE, SIZE], as the network was trained."""
    pixels = np.asarray(image, np.float32)
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) - 127) / 128)[np.newaxis]


def calibrate() -> list[Feeds]:
    """Random crops, each of a third to all of a photograph, some mirrored."""
    from PIL import Image

    random, found = np.random.default_rng(0), []
    for place in PHOTOGRAPHS:
        with Image.open(package_file(*place)) as opened:
            image = opened.convert("RGB")
        for _ in range(CROPS):
            side = int(min(image.size) * random.uniform(0.58, 1.0))
            left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
            box = (left, top, left + side, top + side)
            pixels = normalised(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))
            found.append(pixels[..., ::-1].copy() if random.random() < 0.5 else pixels)
    order = random.permutation(len(found))
    return [{"inputs": found[index]} for index in order]


@cache
def labelled() -> tuple[Array, Array]:
    """Twenty pictures of ImageNet's validation split [20, 3, 224, 224], and their labels."""
    from PIL import Image

    images, labels = [], []
    for path in sorted(package_file(*FOOLBOX).parent.glob("imagenet_*.jpg")):
        match = re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)
        assert match is not None, path
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        side = int(min(image.size) * SIZE / (SIZE + 32))
        left, top = ((length - side) // 2 for length in image.size)
        box = (left, top, left + side, top + side)
        images.append(normalised(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)))
        labels.append(int(match[1]))
    return np.concatenate(images), np.array(labels)


def evaluate(run: Run) -> Array:
    """Logits [20, 1000]."""
    images, _ = labelled()
    return np.concatenate([run({"inputs": image[np.newaxis]})["output"] for image in images])


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Right answers, negative log-likelihood, |logits - dense| / |dense|, share of the dense model's answers."""
    _, labels = labelled()
    shifted = found.astype(np.float64) - found.max(1, keepdims=True)
    likelihood = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return {
        "top-1 of 20": float((found.argmax(1) == labels).sum()),
        "NLL": float(-likelihood[np.arange(len(labels)), labels].mean()),
        "logit error": float(np.linalg.norm(found - dense) / np.linalg.norm(dense)),
        "agreement": float(np.mean(found.argmax(1) == dense.argmax(1))),
    }


BY_BUDGET = ("allocation=sensitivity, augment=4", "augment=4 then refit-blocks{steps=100, augment=4}")
TASK = Task(
    title="EfficientNet-Lite0 / other photographs",
    model=model,
    calibrate=calibrate,
    evaluate=evaluate,
    judge=judge,
    metrics=METRICS,
    amounts={
        **{f"expanded channels -{share} %": f"units=EXPANDED:{share / 100}" for share in (10, 15, 20, 30)},
        # What the rows above leave, spread by what is said of allocation.
        **{
            f"MACs -{100 * share:.1f} %": f"budget=macs:{1 - share}, dims=inner, align=1"
            for share in (0.088, 0.132, 0.177, 0.266)
        },
    },
    methods=(*methods.ALL, *BY_BUDGET),
    peers=("onnxsim l2", "onnxsim wanda"),
)
