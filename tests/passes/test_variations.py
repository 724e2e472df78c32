"""`augment`: a pass that is to vary its data does what it does with data that was varied before."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from helpers.graphs import Net

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.augment import augmented, roles
from secateur.calib.batches import Source
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph
from secateur.ir.errors import TextError
from secateur.passes.context import Context
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline

SEED = 3


def _image_model() -> Graph:
    net = Net("images")
    value = net.input("image", "n", 3, 12, 12)
    for name, inputs in (("a", 3), ("b", 16), ("c", 16)):
        value = net.op("Relu", net.conv(value, name, 16, inputs, 3, 3, pads=[1, 1, 1, 1]))
    value = net.op("Flatten", net.op("GlobalAveragePool", value))
    value = net.op("Relu", net.op("MatMul", value, net.weight("d", 16, 32)))
    return net.done((net.op("MatMul", value, net.weight("e", 32, 8)), ("n", 8)))


def _token_model() -> Graph:
    net = Net("tokens")
    value = net.op("Gather", net.weight("table", 300, 16), net.input("ids", "n", 8, dtype=DataType.INT64))
    hidden = net.op("Relu", net.op("MatMul", value, net.weight("up", 16, 32)))
    return net.done((net.op("MatMul", hidden, net.weight("down", 32, 16)), ("n", 8, 16)))


def _result(text: str, source: Source, model: Callable[[], Graph] = _image_model) -> Result:
    context = Context(runner=partial(OnnxRuntimeRunner, optimize=False, threads=1), source=source, seed=SEED)
    return run_pipeline(model(), parse_pipeline(text), context)


def _run(text: str, source: Source, model: Callable[[], Graph] = _image_model) -> Graph:
    return _result(text, source, model).graph


@pytest.mark.parametrize("options", ["prune{ratio=0.5, align=1%s}", "sparsify{%s}", "armor{block=16, extra=0.5%s}"])
def test_it_is_as_if_the_data_had_been_varied_before(options: str) -> None:
    images = np.random.default_rng(1).normal(size=(12, 3, 12, 12)).astype(np.float32)
    source = open_source({"image": images}, batch_size=6)
    comma = "" if options.startswith("sparsify") else ", "
    told = _run(options % f"{comma}augment=2", source)
    given = _run(options % "", open_source(list(augmented(source, roles(_image_model()), 2, SEED))))
    plain = _run(options % "", source)
    assert str(told) == str(given)
    assert str(told) != str(plain)


@pytest.mark.parametrize(
    ("options", "copies"),
    [("", 1), (", augment=0", 0), (", augment=2", 2), (", repair=least-squares", 0)],
)
@pytest.mark.parametrize("name", ["prune{align=1", "sparsify{worthwhile=true"])
def test_tokens_are_varied_unless_somebody_says_how(name: str, options: str, copies: int) -> None:
    source = open_source({"ids": np.random.default_rng(2).integers(0, 300, (40, 8))}, batch_size=20)
    found = _run(f"{name}{options}}}", source, _token_model)
    given = open_source(list(augmented(source, roles(_token_model()), copies, SEED)))
    assert str(found) == str(_run(f"{name}, augment=0}}", given, _token_model))


def test_the_report_says_that_tokens_were_varied_of_themselves() -> None:
    source = open_source({"ids": np.random.default_rng(2).integers(0, 300, (40, 8))}, batch_size=20)
    for options, said in (("", True), (", augment=0", False), (", repair=least-squares", False)):
        (entry,) = _result(f"prune{{align=1{options}}}", source, _token_model).report.entries
        assert any("augment" in note for note in entry.notes) == said


def test_images_are_not_varied_unless_asked() -> None:
    images = np.random.default_rng(1).normal(size=(12, 3, 12, 12)).astype(np.float32)
    source = open_source({"image": images}, batch_size=6)
    assert str(_run("prune{align=1}", source)) == str(_run("prune{align=1, augment=0}", source))


@pytest.mark.parametrize("name", ["prune", "sparsify", "armor"])
def test_there_are_no_negative_numbers_of_variations(name: str) -> None:
    with pytest.raises(TextError, match="negative"):
        parse_pipeline(f"{name}{{augment=-1}}")
