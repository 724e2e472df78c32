"""PP-OCR's recogniser, which reads lines of text: calibrated on lines in one typeface, judged on lines in others."""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from quality.fetch import package_file, source_file
from quality.smollm2 import HAMLET
from quality.task import CACHE, ROOT, Array, Feeds, Metric, Run, Task, relative_error

sys.path.insert(0, str(ROOT / "tests"))

HEIGHT, WIDTH, BATCH, OPSET = 48, 320, 4, 17
CALIBRATION, HELD_OUT = 32, 96
FONTS = ("matplotlib", "3.11.2", "matplotlib/mpl-data/fonts/ttf")
FACES = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-Oblique.ttf", "STIXGeneral.ttf")
SEEN = "DejaVuSans-Bold.ttf"
METRICS = (Metric("character error %", ".2f"), Metric("error 1 - R²", ".4f"))


def model() -> Path:
    """As it ships, but at an opset that has quantizers by channel; batch and width are free."""
    import onnx
    from helpers.models import real_model
    from onnx import version_converter

    path = CACHE / f"ocr-recogniser-opset{OPSET}.onnx"
    if not path.is_file():
        shipped = onnx.load(str(real_model("ocr-recogniser")))
        converted = version_converter.convert_version(shipped, OPSET)
        converted.metadata_props.extend(shipped.metadata_props)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(converted, str(path))
    return path


@cache
def lines() -> list[str]:
    """Lines of Hamlet of a width that fits, with all their capitals, apostrophes and commas."""
    text = source_file(*HAMLET).read_text(encoding="latin-1")
    text = text[text.index("Enter") :]
    some = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in dict.fromkeys(some) if 14 <= len(line) <= 26 and line.isascii()]


def drawn(count: int, first: int, faces: tuple[str, ...]) -> tuple[list[str], Array]:
    """(what they say, pictures [count, 3, HEIGHT, WIDTH] in [-1, 1]): dark on light, some noise, no two sizes alike."""
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(first)
    chosen = [lines()[at] for at in np.random.default_rng(0).permutation(len(lines()))[first : first + count]]
    pictures = []
    for index, line in enumerate(chosen):
        face = str(package_file(FONTS[0], FONTS[1], f"{FONTS[2]}/{faces[index % len(faces)]}"))
        font, wide = ImageFont.truetype(face, int(random.integers(26, 34))), 0.0
        wide = max(font.getlength(line) + 16, WIDTH * 0.8)
        image = Image.new("L", (int(wide), HEIGHT), int(random.integers(200, 256)))
        ImageDraw.Draw(image).text((8, HEIGHT / 2), line, int(random.integers(0, 90)), font=font, anchor="lm")
        small = image.resize((min(WIDTH, int(wide)), HEIGHT), Image.Resampling.BILINEAR)
        pixels = np.zeros((HEIGHT, WIDTH), np.float32)
        noisy = np.asarray(small, np.float32) + random.normal(0, 8, (HEIGHT, small.width))
        pixels[:, : small.width] = np.clip(noisy, 0, 255) / 127.5 - 1
        pictures.append(np.repeat(pixels[np.newaxis], 3, axis=0))
    return chosen, np.stack(pictures)


@cache
def held_out() -> tuple[list[str], Array]:
    """What is judged on."""
    return drawn(HELD_OUT, CALIBRATION, FACES)


def calibrate() -> list[Feeds]:
    """Other lines, in a typeface of their own."""
    _, pictures = drawn(CALIBRATION, 0, (SEEN,))
    return [{"x": pictures[at : at + BATCH]} for at in range(0, CALIBRATION, BATCH)]


def evaluate(run: Run) -> Array:
    """Probabilities [HELD_OUT, places, characters], as half floats: there are 6,625 characters."""
    _, pictures = held_out()
    batches = (pictures[at : at + BATCH] for at in range(0, HELD_OUT, BATCH))
    return np.concatenate([next(iter(run({"x": batch}).values())).astype(np.float16) for batch in batches])


@cache
def alphabet() -> tuple[str, ...]:
    """What the codes stand for: nothing, then the characters that the model file lists, then a space."""
    import onnx

    kept: dict[str, Any] = {one.key: one.value for one in onnx.load(str(model())).metadata_props}
    return ("", *kept["character"].splitlines(), " ")


def read(probabilities: Array) -> list[str]:
    """The best path: repeated codes count once, and code 0 is none."""
    found = []
    for line in probabilities.argmax(axis=-1):
        kept = line[np.concatenate([[True], line[1:] != line[:-1]])]
        found.append("".join(alphabet()[code] for code in kept))
    return found


def distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, row[0] = row[0], at
        for place, wanted in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (letter != wanted))
    return row[-1]


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Wrong characters of all that there are, and distance to the dense model's probabilities."""
    texts, _ = held_out()
    wrong = sum(distance(text, line) for text, line in zip(texts, read(found), strict=True))
    error = relative_error(found.astype(np.float32), dense.astype(np.float32))
    return {"character error %": 100 * wrong / sum(map(len, texts)), "error 1 - R²": error}


_task = partial(Task, amounts={}, methods=())
TASK = _task(
    title="PP-OCRv4 recogniser / rendered lines",
    model=model,
    calibrate=calibrate,
    evaluate=evaluate,
    judge=judge,
    metrics=METRICS,
)
