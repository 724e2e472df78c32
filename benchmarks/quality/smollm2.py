"""SmolLM2-135M, which continues text: calibrated on Wikipedia, perplexity on other articles, news and Shakespeare."""

from __future__ import annotations

import bz2
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from quality import methods
from quality.fetch import package_file, source_file
from quality.task import CACHE, ROOT, Array, Feeds, Metric, Run, Task

sys.path.insert(0, str(ROOT / "tests"))

WINDOW, CALIBRATION, EVALUATED = 512, 64, 4096
GENSIM, TEXTS = ("gensim", "4.4.0"), "gensim/test/test_data"
WIKIPEDIA = (*GENSIM, f"{TEXTS}/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
NEWS = (*GENSIM, f"{TEXTS}/lee_background.cor")
HAMLET = ("shakespeare", "0.6", "shksprdata/texts/hamlet_gut.txt")
METRICS = (Metric("Wikipedia", ".1f"), Metric("news", ".1f"), Metric("Hamlet", ".1f"))


def model() -> Path:
    """The export of the test zoo, 652 MB."""
    from helpers.zoo import zoo

    return zoo("full")["smollm2"].path()


def cleaned(markup: str) -> str:
    """An article without tables, references, templates and links' targets, as near to prose as it gets."""
    text = re.sub(r"<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>|<math.*?</math>|\{\|.*?\|\}", "", markup, flags=re.DOTALL)
    for _ in range(6):  # templates nest
        text = re.sub(r"\{\{[^{}]*\}\}", "", text)
    text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", "", text)
    text = re.sub(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S+ ?([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>|'{2,}|__[A-Z]+__", "", text)
    text = re.sub(r"^[=*#:;|!].*$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n\s*\n+", "\n\n", text.replace("&nbsp;", " ")).strip()


@cache
def articles() -> list[str]:
    """Wikipedia's, in the file's order, those with some text in them."""
    from html import unescape

    content = bz2.decompress(package_file(*WIKIPEDIA).read_bytes()).decode("utf-8", errors="replace")
    found = re.findall(r"<text[^>]*>(.*?)</text>", content, flags=re.DOTALL)
    texts = (cleaned(unescape(unescape(one))) for one in found if not one.startswith(("#REDIRECT", "#redirect")))
    return [text for text in texts if len(text) > 2000]


@cache
def windows() -> dict[str, Array]:
    """int64 [windows, WINDOW] by what they are from. Evaluated Wikipedia articles are not calibrated on."""
    place = CACHE / f"smollm2-windows-{WINDOW}.npz"
    if not place.is_file():
        texts = articles()
        apart = texts[::5], [text for index, text in enumerate(texts) if index % 5]
        news = package_file(*NEWS).read_text(encoding="latin-1")
        hamlet = source_file(*HAMLET).read_text(encoding="latin-1")
        hamlet = hamlet[hamlet.index("Enter") :]
        cut = EVALUATED // WINDOW
        parts = {
            "Wikipedia": split("\n\n".join(apart[0]))[:cut],
            "news": split(news)[:cut],
            "Hamlet": split(hamlet)[:cut],
            "calibration": split("\n\n".join(apart[1])),
        }
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, **parts)
    with np.load(place) as arrays:
        return {name: arrays[name] for name in arrays.files}


def split(text: str) -> Array:
    """Windows of the text's tokens."""
    tokens = np.array(tokenizer().encode(text, add_special_tokens=False).ids, np.int64)
    return tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)


@cache
def tokenizer() -> Any:
    """That of the GGUF file: byte-level pairs, digits one by one."""
    import gguf
    from helpers.models import pip_file
    from helpers.zoo_real import SMOLLM2
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(pip_file(*SMOLLM2)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(one.split(" ")) for one in fields["tokenizer.ggml.merges"].contents()]
    found = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits, pieces = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    found.decoder = decoders.ByteLevel()
    return found


def calibrate(count: int = CALIBRATION, length: int = WINDOW, batch: int = 1) -> list[Feeds]:
    """The first `length` tokens of `count` windows drawn from Wikipedia, `batch` at once."""
    some = windows()["calibration"][:, :length]
    chosen = np.sort(np.random.default_rng(0).permutation(len(some))[:count])
    return [feeds(some[chosen[start : start + batch]]) for start in range(0, count, batch)]


def feeds(tokens: Array) -> Feeds:
    """With nothing masked."""
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}


def evaluate(run: Run) -> Array:
    """Negative log-likelihood [3, windows, WINDOW - 1] of each token after those before it in its window."""
    found = []
    for name in (metric.name for metric in METRICS):
        for window in windows()[name]:
            logits = run(feeds(window[np.newaxis]))["logits"][0, :-1]
            logits -= logits.max(axis=1, keepdims=True)
            right = logits[np.arange(WINDOW - 1), window[1:]]
            found.append(np.log(np.exp(logits, out=logits).sum(axis=1, dtype=np.float64)) - right)
    return np.array(found).reshape(len(METRICS), -1, WINDOW - 1)


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Perplexities."""
    return {metric.name: float(np.exp(part.mean())) for metric, part in zip(METRICS, found, strict=True)}


TASK = Task(
    title="SmolLM2-135M / Wikipedia",
    model=model,
    calibrate=calibrate,
    evaluate=evaluate,
    judge=judge,
    metrics=METRICS,
    amounts={
        **{f"FFN -{share} %": f"ratio={share / 100}, dims=ffn, align=1" for share in (10, 20, 30, 50)},
        **{
            f"heads -{share} %": f"ratio={share / 100}, dims=heads, align=1, allocation=global"
            for share in (10, 20, 30, 50)
        },
        "a third of the key-value heads": "units=KEY_VALUES:0.34",
        "a third of the query heads": "units=QUERIES:0.34",
        "FFN -20 % and a third of the query heads": "units=FFN:0.2+QUERIES:0.34",
    },
    methods=(
        methods.DEFAULT,
        "allocation=sensitivity",
        "then refit-blocks{span=2, steps=40, rate=0.005}",
        "allocation=sensitivity then refit-blocks{span=2, steps=40, rate=0.005}",
        "allocation=sensitivity then refit-blocks{span=0, steps=40, rate=0.003}",
        "criterion=flap, repair=bias",
        "criterion=wanda-sp, repair=none",
        "criterion=wanda-sp, repair=least-squares",
        "criterion=obs, repair=none",
        "criterion=slimgpt, repair=obs",
        "criterion=magnitude, repair=none",
        "allocation=incremental",
        "allocation=global",
        "allocation=global, weighting=fisher",
    ),
    peers=("onnxsim l2", "onnxsim wanda"),
)
