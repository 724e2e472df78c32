"""`sparsity` says which weights are N:M along the axis that is summed over, and NVIDIA's own checker agrees."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.face_models import Cli
from helpers.graphs import Net

from secateur.ir import DataType, Graph, Header, Tensor, Value
from secateur.ir.build import emit
from secateur.ir.errors import RefusedError
from secateur.passes.sparsify.masks import MagnitudeMasker, keep_largest
from secateur.sparsity import SparsityReport, SparsityRow, sparsity_report

Array = np.ndarray[Any, Any]


def _net() -> Net:
    return Net("sparse", graph=Graph("sparse", header=Header(ir_version=10, opsets=(("", 20), ("com.microsoft", 1)))))


def _weight(net: Net, name: str, shape: tuple[int, ...], axis: int | None, pattern: tuple[int, int] = (2, 4)) -> Value:
    """A weight that has the pattern along an axis."""
    value = net.weight(name, *shape)
    assert value.const is not None
    if axis is not None:
        array = value.const.numpy()
        value.set_const(Tensor(array * keep_largest(np.abs(array), *pattern, axis)))
    return value


def _row(net: Net, pattern: str = "2:4") -> SparsityRow:
    (row,) = sparsity_report(net.graph, pattern=pattern).weights
    return row


def _matmul(axis: int | None, pattern: tuple[int, int] = (2, 4)) -> Net:
    net = _net()
    net.op("MatMul", net.input("x", 3, 32), _weight(net, "w", (32, 16), axis, pattern))
    return net


def test_a_weight_that_is_sparse() -> None:
    row = _row(_matmul(0))
    assert (row.holds, row.pattern, row.axis, row.size, row.zeros, row.reason) == (True, "2:4", 0, 32, 0.5, None)


def test_the_typical_mistake_is_named() -> None:
    row = _row(_matmul(1))
    assert not row.holds
    assert row.reason == "2:4 along axis 1, but MatMul sums over axis 0"


def test_kernels_taken_as_rows_of_taps_are_another_mistake() -> None:
    net = _net()
    value = _weight(net, "w", (16, 16 * 9), 1)
    assert value.const is not None
    value.set_const(Tensor(value.const.numpy().reshape(16, 16, 3, 3)))
    net.op("Conv", net.input("x", 1, 16, 8, 8), value)
    assert _row(net).reason == "2:4 along axes 1 to 3 as one, but Conv sums over axis 1"


@pytest.mark.parametrize(
    ("pattern", "tightest", "implied"),
    [((1, 4), "1:4", ["1:4", "2:4", "2:8", "4:8"]), ((2, 4), "2:4", ["2:4", "4:8"]), ((4, 8), "4:8", ["4:8", "8:16"])],
)
def test_what_a_pattern_implies(pattern: tuple[int, int], tightest: str, implied: list[str]) -> None:
    net = _matmul(0, pattern)
    assert _row(net).pattern == tightest
    assert all(_row(net, one).holds for one in implied)
    assert not _row(net, "1:8").holds


def test_weights_that_cannot_have_it() -> None:
    net = _net()
    x = net.input("x", 1, 6, 8, 8)
    net.op("Conv", x, _weight(net, "depthwise", (6, 1, 3, 3), None), group=6)
    net.op("Conv", x, _weight(net, "grouped", (8, 3, 3, 3), None), group=2)
    net.op("Conv", x, _weight(net, "odd", (8, 6, 3, 3), None))
    rows = {row.name: row for row in sparsity_report(net.graph).weights}
    assert {name: row.reason for name, row in rows.items()} == {
        "depthwise": "it is depthwise: it sums over one channel",
        "grouped": "it sums over 3 channels in each group",
        "odd": "it sums over 6 channels, no multiple of 4",
    }
    assert not any(row.useful or row.holds for row in rows.values())


def test_why_zeros_are_not_enough() -> None:
    net = _matmul(None)
    assert _row(net).reason == "0.0% are zero, 50.0% need to be"
    value = net.graph["w"]
    array = value.const.numpy().copy()
    array[:16] = 0
    array[0, 0] = array[16, 0] = 0
    value.set_const(Tensor(array))
    assert _row(net).reason == "its zeros lie elsewhere: up to 4 of 4 neighbours are not zero"


def test_codes_are_looked_at_as_codes() -> None:
    net = _net()
    array = _weight(net, "float", (16, 32), 1).const.numpy()
    codes = net.constant("codes", (array * 100).astype(np.int8))
    scale, zero = net.constant("scale", np.ones(16, np.float32)), net.constant("zero", np.full(16, 3, np.int8))
    good = net.op("DequantizeLinear", codes, scale, axis=0)
    shifted = net.op("DequantizeLinear", codes, scale, zero, axis=0)
    x = net.input("x", 3, 32)
    net.op("Gemm", x, good, transB=1)
    net.op("Gemm", x, shifted, transB=1)
    first, second = sparsity_report(net.graph).weights
    assert (first.name, first.dtype, first.holds, first.reason) == ("codes", "i8", True, None)
    assert second.reason is not None and "zero point" in second.reason and not second.useful


def test_bodies_are_looked_into_and_other_constants_counted() -> None:
    net = _net()
    x = net.input("x", 3, 32)
    branches = []
    for name in ("then", "else"):
        inner = net.body(name)
        made = inner.op("MatMul", x, _weight(inner, f"{name}.w", (32, 16), 0))
        branches.append(inner.done((made, [3, 16])))
    net.op("If", net.constant("condition", np.bool_(True)), then_branch=branches[0], else_branch=branches[1])
    net.op("Gather", net.weight("table", 10, 8), net.constant("which", np.int64(0)))
    report = sparsity_report(net.graph)
    assert [(row.name, row.holds) for row in report.weights] == [("then.w", True), ("else.w", True)]
    assert report.remarks == ("other constants of two axes or more, which nothing here sums over: 1 read by Gather",)


def _saved(tmp_path: Path, net: Net, *outputs: Value) -> Path:
    path = tmp_path / "model.onnx"
    net.done(*((value, [None] * rank) for value, rank in zip(outputs, [2] * len(outputs), strict=True))).save(path)
    return path


@pytest.mark.parametrize(
    ("axes", "arguments", "code"),
    [
        ((0, 0), ["--fail-unless-sparse"], 0),
        ((0, None), ["--fail-unless-sparse"], 1),
        ((0, None), [], 0),
        ((1, 1), ["--fail-unless-sparse"], 1),
        ((0, 0), ["--fail-unless-sparse", "--pattern", "1:4"], 1),
        ((0, 0), ["--fail-unless-sparse", "--pattern", "4:8"], 0),
    ],
)
def test_the_command(cli: Cli, tmp_path: Path, axes: tuple[int | None, ...], arguments: list[str], code: int) -> None:
    net = _net()
    value = net.input("x", 3, 32)
    for index, axis in enumerate(axes):
        value = net.op("MatMul", value, _weight(net, f"w{index}", (32, 32), axis))
    # An output layer of ten classes is nothing that a sparse kernel takes, and does not count.
    value = net.op("MatMul", value, _weight(net, "head", (32, 10), None))
    path = _saved(tmp_path, net, value)
    shown = cli("sparsity", path, *arguments)
    assert shown.code == code
    assert "weights that are" in shown.out
    found = cli("sparsity", path, "--json", *arguments)
    assert found.code == code
    assert [row["name"] for row in found.json["weights"]] == ["w0", "w1", "head"]
    assert found.json["sparse"] is (code == 0 and "--fail-unless-sparse" in arguments)


@pytest.mark.parametrize("pattern", ["4:2", "2", "2:4:8", "0:4", "a:b", "50%"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(RefusedError, match="no pattern"):
        sparsity_report(_matmul(0).graph, pattern=pattern)


def _everything(sparse: bool) -> Net:
    """Each kind of weight that NVIDIA's checker knows, in each of its float types, along the right axis or another."""
    net = _net()

    def weight(name: str, shape: tuple[int, ...], axis: int, kind: DataType = DataType.FLOAT32) -> Value:
        other = next(at for at, size in enumerate(shape) if at != axis and size % 4 == 0)
        value = _weight(net, name, shape, axis if sparse else other)
        value.set_const(Tensor(value.const.numpy().astype(kind.numpy), kind))
        return value

    for kind in (DataType.FLOAT32, DataType.FLOAT16):
        flat = net.input(f"flat.{kind.short}", 3, 32, dtype=kind)
        image = net.input(f"image.{kind.short}", 1, 16, 8, 8, dtype=kind)
        net.op("MatMul", flat, weight(f"right.{kind.short}", (32, 16), 0, kind))
        net.op("Gemm", flat, weight(f"gemm.{kind.short}", (32, 16), 0, kind))
        net.op("Gemm", flat, weight(f"gemm-b.{kind.short}", (16, 32), 1, kind), transB=1)
        net.op("Conv", image, weight(f"conv.{kind.short}", (8, 16, 3, 3), 1, kind))
        net.op("Conv", image, weight(f"grouped.{kind.short}", (8, 8, 3, 3), 1, kind), group=2)
        turned = net.op("Transpose", weight(f"turned.{kind.short}", (16, 32), 1, kind), perm=[1, 0])
        net.op("MatMul", flat, turned)
    x = net.input("x", 3, 32)
    scale, zero = net.constant("scale", np.float32(0.01)), net.constant("zero", np.int8(0))
    rounded = net.op("QuantizeLinear", weight("rounded", (32, 16), 0), scale, zero)
    net.op("MatMul", x, net.op("DequantizeLinear", rounded, scale, zero))
    cast = emit(net.graph, "Cast", [weight("cast", (32, 16), 0, DataType.FLOAT16)], {"to": 1}).output
    net.op("MatMul", x, cast)
    return net


def _held(report: SparsityReport) -> set[str]:
    return {row.name for row in report.weights if row.holds}


@pytest.mark.parametrize("sparse", [True, False])
def test_both_kinds_of_models_are_told_apart(sparse: bool) -> None:
    report = sparsity_report(_everything(sparse).graph)
    assert len(report.weights) == 14
    assert _held(report) == ({row.name for row in report.weights} if sparse else set())
    if not sparse:
        assert all("2:4 along axis" in (row.reason or "") for row in report.weights)


@pytest.mark.skipif(find_spec("polygraphy") is None, reason="polygraphy is not installed")
@pytest.mark.parametrize("sparse", [True, False])
def test_nvidias_checker_finds_the_same(tmp_path: Path, sparse: bool) -> None:
    net = _everything(sparse)
    path = _saved(tmp_path, net)
    code = "from polygraphy.tools import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "sparsity", str(path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    theirs = {line.rpartition(" ")[2] for line in lines if "Found sparse tensor" in line}
    assert theirs == _held(sparsity_report(path))


def test_what_the_masker_makes_is_sparse_wherever_it_lies(tmp_path: Path) -> None:
    net = _everything(False)
    path = tmp_path / "model.onnx"
    net.graph.save(path, external_data=True)
    from secateur.ir.onnx_read import load
    from secateur.ir.rules.known import Known
    from secateur.ir.rules.weights import weight_uses

    graph, masker = load(path), MagnitudeMasker(2, 4)
    for use in weight_uses(Known(graph)):
        masked = masker.mask(use.tensor, use.contracted)
        stays = keep_largest(np.abs(use.tensor.numpy().astype(np.float32)), 2, 4, use.contracted)
        np.testing.assert_array_equal(masked.stays.unpacked(), stays)
        use.weight.set_const(masked.tensor)
    graph.save(path, external_data=True)
    assert all(row.holds for row in sparsity_report(path).weights)
