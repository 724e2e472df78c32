"""The pass on every kind of layer: zeros where they may be, in the pattern, mended, noted, and the same twice."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.convolutional import Net
from helpers.graphs import Net as Named
from helpers.graphs import random_feeds
from helpers.sparse_problems import satisfies

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.calib.batches import Batch
from secateur.calib.sources import open_source
from secateur.ir import DataType, Graph, Tensor
from secateur.ir.build import add_constant, add_input, emit
from secateur.ir.errors import RefusedError, TextError
from secateur.ir.rules.known import Known
from secateur.ir.rules.weights import weight_uses
from secateur.passes.context import Context
from secateur.passes.layers.evidence import Streams, gather
from secateur.passes.manager import Result, run_pipeline
from secateur.passes.pipeline import parse_pipeline
from secateur.passes.sparsify.criteria import CRITERIA


def _context(graph: Graph, **more: Any) -> Context:
    source = open_source([Batch(random_feeds(graph, seed)) for seed in range(6)])
    return Context(runner=OnnxRuntimeRunner, source=source, seed=3, **more)


def _sparsify(graph: Graph, options: str = "", *, data: bool = True, **more: Any) -> Result:
    context = _context(graph, **more) if data else Context()
    return run_pipeline(graph, parse_pipeline(f"sparsify{{{options}}}"), context)


def _array(graph: Graph, name: str) -> np.ndarray:
    tensor = graph[name].const
    assert tensor is not None
    return tensor.numpy()


def _mlp() -> Graph:
    net = Named("mlp")
    value = net.op("Gemm", net.input("x", 6, 8), net.weight("up", 16, 8), net.weight("b", 16), transB=1, alpha=0.5)
    return net.done((net.op("Gemm", net.op("Relu", value), net.weight("down", 16, 4), beta=2.0), (6, 4)))


def _convs() -> Graph:
    net = Named("convs")
    value = net.op("Relu", net.conv(net.input("x", 4, 8, 6, 6), "first", 8, 8, 3, 3, pads=[1, 1, 1, 1]))
    value = net.op("Relu", net.conv(value, "grouped", 12, 4, 3, 3, group=2, pads=[1, 1, 1, 1]))
    value = net.op("Relu", net.conv(value, "depthwise", 12, 1, 3, 3, group=12, pads=[1, 1, 1, 1]))
    return net.done((net.op("ConvTranspose", value, net.weight("spread", 12, 4, 2, 2)), (4, 4, 7, 7)))


def _attention() -> Graph:
    net = Named("attention")
    x = net.input("x", 4, 5, 8)
    query, key, value = (net.op("MatMul", x, net.weight(name, 8, 8), to=name) for name in ("q", "k", "v"))
    scores = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 1])), axis=-1)
    trunk = net.op("Add", x, net.op("MatMul", net.op("MatMul", scores, value), net.weight("out", 8, 8)))
    hidden = net.op("Relu", net.op("Add", net.op("MatMul", trunk, net.weight("up", 8, 16)), net.weight("up.bias", 16)))
    return net.done((net.op("Add", trunk, net.op("MatMul", hidden, net.weight("down", 16, 8))), (4, 5, 8)))


GRAPHS = {"mlp": _mlp, "convs": _convs, "attention": _attention}
AXES = {
    "mlp": {"up": 1, "down": 0},
    "convs": {"first.weight": 1, "grouped.weight": 1, "spread": 0},
    "attention": {"q": 0, "k": 0, "v": 0, "out": 0, "up": 0, "down": 0},
}
"""The weights that may be sparse, and the axes that their ops sum over."""


@cache
def _differentiator() -> Any:
    pytest.importorskip("torch")
    from secateur.backends.torch.scores import TorchDifferentiator

    return TorchDifferentiator


@pytest.mark.parametrize("criterion", CRITERIA.names())
@pytest.mark.parametrize("name", GRAPHS)
def test_every_criterion_on_every_kind_of_layer(name: str, criterion: str) -> None:
    graph = GRAPHS[name]()
    more = {"differentiator": _differentiator()} if CRITERIA[criterion].needs_gradients else {}
    result = _sparsify(graph, f"criterion={criterion},worthwhile=false", **more)
    rows = {str(row["weight"]): row for row in result.report.entries[0].rows}
    assert set(rows) == set(AXES[name])
    for weight, axis in AXES[name].items():
        found = _array(result.graph, weight)
        assert satisfies(found, 2, 4, axis), weight
        np.testing.assert_array_equal(result.manifest.masks[weight] | (found == 0), True)
        assert not found[~result.manifest.masks[weight]].any()
        assert rows[weight]["error"] <= rows[weight]["unrepaired"], weight  # type: ignore[operator]
    result.graph.verify()


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("options", ["", "refine=dsnot", "pattern=60%", "pattern=1:4,repair=sweep", "criterion=sketch"])
def test_equal_seeds_give_equal_bytes(name: str, options: str) -> None:
    first, again = (_sparsify(GRAPHS[name](), f"worthwhile=false,{options}".rstrip(",")) for _ in range(2))
    assert str(first.graph) == str(again.graph)
    assert first.report.to_json(timing=False) == again.report.to_json(timing=False)
    assert first.manifest.to_json() == again.manifest.to_json()


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ("", "criterion=sparsegpt,refine=admm,repair=least-squares"),
        ("pattern=50%", "pattern=50%,criterion=sparsegpt,refine=admm,repair=least-squares"),
        ("criterion=sparsegpt", "criterion=sparsegpt,refine=none,repair=least-squares"),
        ("repair=none", "criterion=sparsegpt,refine=none,repair=none"),
        ("refine=swap", "criterion=sparsegpt,refine=swap,repair=least-squares"),
    ],
)
def test_auto_is_the_best_that_is_known_and_leaves_named_methods_alone(options: str, meant: str) -> None:
    short, long = (_sparsify(_mlp(), f"worthwhile=false,{one}".rstrip(",")) for one in (options, meant))
    for weight in AXES["mlp"]:
        np.testing.assert_array_equal(_array(short.graph, weight), _array(long.graph, weight))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("pattern", ["2:4", "50%"])
def test_without_repair_weights_are_what_they_were_or_zero(name: str, pattern: str) -> None:
    graph = GRAPHS[name]()
    for data, criterion in ((False, "magnitude"), (True, "wanda")):
        options = f"worthwhile=false,pattern={pattern},repair=none,criterion={criterion}"
        result = _sparsify(graph, options, data=data)
        assert result.manifest.exact
        for weight in AXES[name]:
            wanted = np.where(result.manifest.masks[weight], _array(graph, weight), 0)
            np.testing.assert_array_equal(_array(result.graph, weight), wanted)


def test_magnitude_is_the_same_a_piece_at_a_time() -> None:
    """Without data, N:M masks are made in little memory; with data, from matrices."""
    for name, build in GRAPHS.items():
        alone = _sparsify(build(), "worthwhile=false", data=False)
        beside = _sparsify(build(), "worthwhile=false,criterion=magnitude,repair=bias")
        for weight in AXES[name]:
            np.testing.assert_array_equal(alone.manifest.masks[weight], beside.manifest.masks[weight])


def test_half_of_a_share_of_zeros_is_half_in_every_layer() -> None:
    result = _sparsify(_convs(), "pattern=37.5%")
    for weight in AXES["convs"]:
        found = _array(result.graph, weight)
        assert np.count_nonzero(found == 0) >= int(found.size * 0.375) - 2
    rows = _sparsify(_attention(), "pattern=50%,scope=row,criterion=wanda")
    for weight in AXES["attention"]:
        assert (
            np.count_nonzero(_array(rows.graph, weight) == 0, axis=0) == _array(rows.graph, weight).shape[0] // 2
        ).all()


def test_repair_mends_the_whole_model() -> None:
    """Not only layer by layer: what comes out is nearer to what came out."""
    for build in GRAPHS.values():
        graph = build()
        feeds = random_feeds(graph, 99)

        def outputs(graph: Graph, feeds: Any = feeds) -> np.ndarray:
            with OnnxRuntimeRunner(graph) as runner:
                return next(iter(runner.run(feeds).values()))

        dense = outputs(graph)
        options = "worthwhile=false,criterion=magnitude,repair="
        plain, mended = (outputs(_sparsify(graph, options + way).graph) for way in ("none", "least-squares"))
        assert np.square(mended - dense).sum() < 0.95 * np.square(plain - dense).sum()


def test_names_choose_patterns() -> None:
    result = _sparsify(_attention(), "worthwhile=false,patterns=[down:dense,?:1:4,o*:75%]", data=False)
    assert {row["weight"]: row["pattern"] for row in result.report.entries[0].rows} == {
        "q": "1:4",
        "k": "1:4",
        "v": "1:4",
        "out": "75%",
        "up": "2:4",
    }
    assert any("down stays dense: patterns say so" in note for note in result.report.entries[0].notes)
    assert satisfies(_array(result.graph, "q"), 1, 4, 0)
    # Who names a weight has it whatever kernels there are: queries have too few inputs for one.
    named = _sparsify(_attention(), "patterns=[q:2:4,up:dense]", data=False)
    assert [row["weight"] for row in named.report.entries[0].rows] == ["q", "down"]


def test_names_that_fit_nothing_are_refused() -> None:
    with pytest.raises(RefusedError, match="no weight is called 'dwn'") as refused:
        _sparsify(_attention(), "patterns=[dwn:dense]", data=False)
    assert "down" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("pattern=2:4:8", "pattern"),
        ("pattern=100%", "share of zeros"),
        ("patterns=[dense]", "glob"),
        ("criterion=wnda", "wanda"),
        ("refine=swop", "swap"),
        ("repair=least", "least-squares"),
        ("scope=column", "layer, row"),
        ("damping=-1.0", "negative"),
        ('criterion="expr:W+"', "formula"),
        ("criterion=ria:x", "power"),
        ("criterion=d-pruner:-1", "lambda"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: str, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_pipeline(f"sparsify{{{options}}}")


@pytest.mark.parametrize(
    "options", ["criterion=wanda", "refine=swap", "repair=bias", "criterion=fisher", "allocation=budget,max_error=0.1"]
)
def test_what_needs_data_is_refused_without(options: str) -> None:
    with pytest.raises(RefusedError, match="calibration data"):
        _sparsify(_mlp(), options, data=False)


def test_a_weight_that_two_layers_share_gets_one_mask_from_both() -> None:
    net = Named("tied")
    tied, x = net.weight("tied", 8, 8), net.input("x", 6, 8)
    made = net.op("MatMul", net.op("Relu", net.op("MatMul", x, tied)), tied)
    graph = net.done((made, (6, 8)))
    result = _sparsify(graph, "worthwhile=false,criterion=wanda")
    sparse, dense = _array(result.graph, "tied"), _array(graph, "tied")
    assert satisfies(sparse, 2, 4, 0)
    assert ((sparse == dense) | (sparse == 0)).all()
    assert len(result.graph.consumers(result.graph["tied"])) == 2
    assert any("not repaired: 2 ops read it" in note for note in result.report.entries[0].notes)


def test_what_reads_nothing_but_zeros_goes_by_magnitude() -> None:
    net = Named("dead")
    x = net.input("x", 6, 8)
    zero = net.op("Mul", x, net.constant("zero", np.float32(0)))
    graph = net.done((net.op("MatMul", zero, net.weight("w", 8, 4)), (6, 4)))
    result = _sparsify(graph, "worthwhile=false")
    assert any("by magnitude" in note for note in result.report.entries[0].notes)
    np.testing.assert_array_equal(
        _array(result.graph, "w"), _array(_sparsify(graph, "worthwhile=false", data=False).graph, "w")
    )


def test_dead_channels_keep_nothing_and_break_nothing() -> None:
    net = Named("half")
    x = net.input("x", 6, 8)
    half = net.op("Mul", x, net.constant("half", np.array([1, 0, 1, 0, 1, 1, 0, 0], np.float32)))
    graph = net.done((net.op("MatMul", half, net.weight("w", 8, 4)), (6, 4)))
    result = _sparsify(graph, "worthwhile=false")
    (row,) = result.report.entries[0].rows
    assert row["error"] < 1e-3  # type: ignore[operator]
    assert not _array(result.graph, "w")[[1, 3, 6, 7]].any()


def test_nan_in_a_weight_is_named() -> None:
    graph = _mlp()
    broken = _array(graph, "up").copy()
    broken[0, 0] = np.nan
    graph["up"].set_const(Tensor(broken))
    result = _sparsify(graph, "worthwhile=false", data=False)
    assert any("up stays dense: it holds NaN" in note for note in result.report.entries[0].notes)


def test_codes_stay_as_they_are() -> None:
    graph = Graph()
    x = add_input(graph, "x", ["n", 16])
    codes = add_constant(graph, "codes", np.random.default_rng(0).integers(-9, 9, size=(16, 8)).astype(np.int8))
    scale = add_constant(graph, "scale", np.float32(0.1))
    weight = emit(graph, "DequantizeLinear", [codes, scale]).output
    graph.set_interface(outputs=[emit(graph, "MatMul", [x, weight]).output])
    result = _sparsify(graph, data=False)
    assert result.report.rewrites == 0
    assert any("sparsify before quantizing" in note for note in result.report.entries[0].notes)


def test_a_second_run_finds_nothing_and_counts_it_all_the_same() -> None:
    once = _sparsify(Net(16).conv(16).done()).graph
    again = _sparsify(once)
    assert again.report.rewrites == 0
    assert [row["energy_kept"] for row in again.report.entries[0].rows] == [1.0]


def test_what_reads_one_tensor_is_measured_in_one_run() -> None:
    class Counting(OnnxRuntimeRunner):
        opened: list[list[str]] = []  # noqa: RUF012

        def __init__(self, graph: Graph, **options: Any) -> None:
            self.opened.append(sorted(options.get("outputs") or []))
            super().__init__(graph, **options)

    graph = _attention()
    run_pipeline(
        graph, parse_pipeline("sparsify{worthwhile=false}"), Context(runner=Counting, source=_context(graph).source)
    )
    looks = [names for names in Counting.opened if {"q", "k", "v"} & set(names)]
    assert all({"q", "k", "v"} <= set(names) for names in looks)


def test_stacked_experts_and_weights_behind_a_transpose() -> None:
    """Each expert has a Gram of its own; a weight is sparse along what the op sums over, wherever that is stored."""
    net = Named("experts")
    x = net.input("x", 3, 6, 8)
    hidden = net.op("Relu", net.op("MatMul", x, net.weight("experts", 3, 8, 16)))
    turned = net.op("Transpose", net.weight("turned", 4, 16), perm=[1, 0])
    graph = net.done((net.op("MatMul", hidden, turned), (3, 6, 4)))
    for options in ("", "criterion=magnitude,repair=none", "pattern=50%", "criterion=wanda,repair=scale"):
        result = _sparsify(graph, f"worthwhile=false,{options}".rstrip(","))
        assert {row["weight"] for row in result.report.entries[0].rows} == {"experts", "turned"}
        if "50%" not in options:
            assert satisfies(_array(result.graph, "experts"), 2, 4, 1)
            assert satisfies(_array(result.graph, "turned"), 2, 4, 1)
        for row in result.report.entries[0].rows:
            assert row.get("error", 0.0) <= row.get("unrepaired", 0.0)  # type: ignore[operator]


@pytest.mark.parametrize(
    "options", ["damping=0.0", "positions=0", "damping=10.0", "repair=sweep,damping=0.0", "refine=admm"]
)
def test_options_at_their_ends(options: str) -> None:
    for build in GRAPHS.values():
        result = _sparsify(build(), f"worthwhile=false,{options}")
        for row in result.report.entries[0].rows:
            assert np.isfinite(_array(result.graph, str(row["weight"]))).all()
            assert row["error"] <= row["unrepaired"]  # type: ignore[operator]


def test_halves_stay_halves() -> None:
    net = Named("half precision")
    x = net.input("x", 6, 8, dtype=DataType.FLOAT16)
    weight = net.constant("w", np.random.default_rng(0).normal(size=(8, 4)).astype(np.float16))
    graph = net.done((net.op("MatMul", x, weight), (6, 4)), dtype=DataType.FLOAT16)
    for options in ("worthwhile=false", "worthwhile=false,criterion=magnitude,repair=none"):
        found = _array(_sparsify(graph, options).graph, "w")
        assert found.dtype == np.float16
        assert satisfies(found, 2, 4, 0)


def test_what_reads_one_tensor_shares_one_gram_and_sees_what_it_would_alone() -> None:
    graph = _attention()
    context = _context(graph)
    uses = [use for use in weight_uses(Known(graph)) if use.weight.name in ("q", "k", "v", "up")]
    assert context.source is not None
    streams = Streams.whole(graph, graph.clone(), context.source)
    together = gather(streams, uses, context, 0)
    assert together[0].fit._xx is together[2].fit._xx
    assert together[0].fit._xx is not together[3].fit._xx
    for use, found in zip(uses, together, strict=True):
        (alone,) = gather(streams, [use], context, 0)
        for one, other in ((found.fit, alone.fit), (found.held_out, alone.held_out)):
            for name, array in one.state().items():
                np.testing.assert_allclose(array, other.state()[name], rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(found.together().xy, alone.together().xy, rtol=1e-12, atol=1e-12)


def _two_sizes() -> Graph:
    """A product of 1024 x 1024 weights, and a small one behind it."""
    graph, random = Graph(), np.random.default_rng(0)
    x = add_input(graph, "x", ["n", 1024])
    for name, shape in (("large", (1024, 1024)), ("small", (1024, 64))):
        weight = add_constant(graph, name, random.normal(size=shape).astype(np.float32))
        x = emit(graph, "MatMul", [x, weight]).output
    graph.set_interface(outputs=[x])
    return graph


@pytest.mark.parametrize(
    ("options", "sparse"),
    [
        ("target=a100,batch=1", ["large", "small"]),
        ("target=a100,batch=4096", ["large"]),
        ("target=7.5", []),
        ("target=7.5,worthwhile=false", ["large", "small"]),
    ],
)
def test_on_a_target_what_gains_there_becomes_sparse(options: str, sparse: list[str]) -> None:
    """With many rows the small product waits for its activations; the 7.5 has no sparse tensor cores."""
    entry = run_pipeline(_two_sizes(), parse_pipeline(f"sparsify{{{options}}}"), Context()).report.entries[0]
    assert [row["weight"] for row in entry.rows] == sparse
    assert len([note for note in entry.notes if "stays dense" in note]) == 2 - len(sparse)


def test_a_target_is_asked_with_the_sizes_of_the_data() -> None:
    data = np.random.default_rng(0).normal(size=(4096, 1024)).astype(np.float32)
    context = Context(runner=OnnxRuntimeRunner, source=open_source({"x": data}, batch_size=4096))
    text = "sparsify{criterion=magnitude,repair=none,target=a100}"
    entry = run_pipeline(_two_sizes(), parse_pipeline(text), context).report.entries[0]
    assert [row["weight"] for row in entry.rows] == ["large"]


@pytest.mark.parametrize(("small", "sparse"), [(1.0, ["small"]), (9.9, [])])
def test_what_was_measured_counts_instead_of_the_roofline(small: float, sparse: list[str], tmp_path: Path) -> None:
    """The large product is slower with zeros, by this table."""
    rows = [(1024, 1024, 40.0, 50.0), (1024, 64, 10.0, small)]
    names = ("inputs", "outputs", "dense", "sparse")
    entries = [{"format": "fp16", "rows": 1, **dict(zip(names, row, strict=True))} for row in rows]
    table = tmp_path / "times.json"
    table.write_text(json.dumps({"device": "toy", "times": entries}))
    text = f'sparsify{{target=a100,batch=1,times="{table}"}}'
    entry = run_pipeline(_two_sizes(), parse_pipeline(text), Context()).report.entries[0]
    assert [row["weight"] for row in entry.rows] == sparse
    assert any("0.800 times as fast, as measured" in note for note in entry.notes)
    with pytest.raises(TextError, match="needs the target"):
        parse_pipeline(f'sparsify{{times="{table}"}}')


def test_a_target_without_the_format_is_refused() -> None:
    with pytest.raises(RefusedError, match="has no fp8"):
        run_pipeline(_two_sizes(), parse_pipeline("sparsify{target=a100,target_format=fp8}"), Context())
