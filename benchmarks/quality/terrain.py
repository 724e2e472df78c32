"""A one-step diffusion U-Net that draws terrain: calibrated on some noise, judged on what it makes of other noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from quality.task import ROOT, Array, Feeds, Metric, Run, Task, relative_error

sys.path.insert(0, str(ROOT / "tests"))

SIZE, SIGMA = 128, 80.0
CALIBRATION, HELD_OUT, BATCH = 8, 16, 4
METRICS = (Metric("PSNR dB", ".2f", higher=True), Metric("error 1 - R²", ".4f"))


def model() -> Path:
    """As it ships: 2,103 ops, 10.5 M parameters."""
    from helpers.models import real_model

    return real_model("terrain")


def drawn(count: int, seed: int) -> list[Feeds]:
    """Noise of the strength that one step takes away, and difficulties evenly drawn from [0, 1]."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((count, 1, SIZE, SIZE), dtype=np.float32) * np.float32(SIGMA)
    difficulty = random.random(count, dtype=np.float32)
    strength = np.full(count, SIGMA, np.float32)
    return [
        {"noisy": noise[part], "sigma": strength[part], "difficulty": difficulty[part]}
        for part in (slice(at, at + BATCH) for at in range(0, count, BATCH))
    ]


def calibrate() -> list[Feeds]:
    """By seed 0."""
    return drawn(CALIBRATION, seed=0)


def evaluate(run: Run) -> Array:
    """Terrains [HELD_OUT, 1, SIZE, SIZE] in [-1, 1], by seed 1."""
    return np.concatenate([run(feeds)["denoised"] for feeds in drawn(HELD_OUT, seed=1)])


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Peak signal-to-noise ratio to the dense model's terrains, whose range is 2."""
    error = max(float(np.square(found - dense, dtype=np.float64).mean()), 1e-12)
    return {"PSNR dB": 10 * float(np.log10(4 / error)), "error 1 - R²": relative_error(found, dense)}


TASK = Task(
    title="terrain diffusion U-Net / its dense self",
    model=model,
    calibrate=calibrate,
    evaluate=evaluate,
    judge=judge,
    metrics=METRICS,
    amounts={f"all that is exact -{share} %": f"ratio={share / 100}, dims=all, align=1" for share in (20, 40)},
    methods=(
        "",
        "positions=1024",
        "criterion=magnitude, repair=none",
        "criterion=magnitude, repair=least-squares",
        "criterion=obs, repair=least-squares",
    ),
    peers=("onnxsim l2", "onnxsim wanda"),
)
