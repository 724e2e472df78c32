"""Fashion-MNIST: a ResNet, a VGG and a mixture of experts, calibrated on training images, scored on all test images."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np

from quality import methods
from quality.task import CACHE, ROOT, Array, Feeds, Metric, Run, Task, relative_error

EXAMPLE = ROOT / "examples" / "fashion_mnist"
IMAGES, BATCH = 512, 64
METRICS = (Metric("error 1 - R²", ".4f"), Metric("accuracy %", ".2f", higher=True))


@cache
def test_split() -> tuple[Array, Array]:
    """Images and labels that nothing is trained or calibrated on."""
    return _data().load("test")


def _data() -> object:
    if str(EXAMPLE) not in sys.path:
        sys.path.insert(0, str(EXAMPLE))
    import data

    return data


def trained(name: str) -> Path:
    """The file of a network that `fashion_nets.py` trains, once."""
    path = CACHE / f"fashion-{name}.onnx"
    if not path.is_file():
        script = str(Path(__file__).with_name("fashion_nets.py"))
        environment = os.environ | {"OMP_NUM_THREADS": str(os.cpu_count())}
        subprocess.run([sys.executable, script, name, str(path)], check=True, env=environment)
    return path


def calibrate() -> list[Feeds]:
    """Images of the training split."""
    images = _data().calibration(IMAGES, seed=0)
    return [{"image": images[start : start + BATCH]} for start in range(0, IMAGES, BATCH)]


def evaluate(run: Run) -> Array:
    """Logits [10000, 10]."""
    images, _ = test_split()
    return np.concatenate([run({"image": images[at : at + 500]})["logits"] for at in range(0, len(images), 500)])


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Distance to the dense logits, and labels that are right."""
    _, labels = test_split()
    return {
        "error 1 - R²": relative_error(found, dense),
        "accuracy %": 100 * float(np.mean(found.argmax(1) == labels)),
    }


def likelihood(found: Array, dense: Array) -> dict[str, float]:
    """The same, and the mean negative log-likelihood of the labels."""
    _, labels = test_split()
    shifted = found.astype(np.float64) - found.max(1, keepdims=True)
    missed = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    return {**judge(found, dense), "NLL": float(missed.mean())}


AMOUNTS = {"MACs -30 %": "budget=macs:0.7, align=1", "MACs -50 %": "budget=macs:0.5, align=1"}
PEERS = ("onnxsim l2", "onnxsim wanda", "torch-pruning l2")
_task = partial(Task, calibrate=calibrate, evaluate=evaluate, judge=judge, metrics=METRICS)
RESNET = _task(
    title="ResNet / Fashion-MNIST",
    model=lambda: EXAMPLE / "resnet.onnx",
    amounts=AMOUNTS,
    methods=methods.ALL,
    peers=PEERS,
)
VGG = _task(
    title="VGG / Fashion-MNIST",
    model=lambda: trained("vgg"),
    amounts=AMOUNTS,
    methods=methods.ALL,
    peers=PEERS,
)
EXPERTS = _task(
    title="mixture of experts / Fashion-MNIST",
    model=lambda: trained("experts"),
    amounts={"half of the experts": "ratio=0.5, dims=experts, exact=false, align=1"},
    methods=(
        "",
        *(f"criterion={name}" for name in ("reap", "frequency", "expert-norm", "expert-norm-mean", "random")),
        "criterion=reap then refit-blocks{steps=200}",
    ),
    peers=("onnxsim l2", "onnxsim wanda"),
)
