"""The roofline against what can be worked out by hand, and the limits that no layer can pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.ir.errors import DataError
from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.known_targets import BY_CAPABILITY, KNOWN, find_target
from secateur.ir.roofline import Work, greatest_gain, intensity, least_time, weight_bytes
from secateur.ir.targets import Format, Target

TARGET = Target("toy", (8, 0), {Format.FP16: 100.0, Format.INT8: 200.0}, 10.0, {Format.FP16: 2.0, Format.INT8: 2.0})
SIZES = st.integers(1, 1 << 14)


def product(rows: int, inputs: int, outputs: int, form: Format = Format.FP16) -> Work:
    """A matrix product whose activations all go through memory."""
    return Work(rows * inputs * outputs, inputs * outputs, rows * (inputs + outputs) * form.bits / 8)


@given(rows=SIZES, inputs=SIZES, outputs=SIZES, target=st.sampled_from(sorted(KNOWN)))
def test_a_gain_is_never_below_1_or_above_what_the_hardware_doubles(
    rows: int, inputs: int, outputs: int, target: str
) -> None:
    device = KNOWN[target]
    for form in device.peak:
        gain = greatest_gain(product(rows, inputs, outputs, form), device, form)
        saved = weight_bytes(1, form) / weight_bytes(1, form, sparse=True)
        assert 1 <= gain <= max(device.sparse.get(form, 1.0), saved) + 1e-12


@given(rows=SIZES, inputs=SIZES, outputs=SIZES, sparse=st.booleans())
def test_more_rows_never_take_less_time(rows: int, inputs: int, outputs: int, sparse: bool) -> None:
    few, many = (
        least_time(product(count, inputs, outputs), TARGET, Format.FP16, sparse=sparse).seconds
        for count in (rows, rows + 1)
    )
    assert few <= many


@pytest.mark.parametrize(("form", "share"), [(Format.FP16, 9 / 16), (Format.INT8, 5 / 8)])
def test_a_layer_bound_by_its_weight_gains_what_its_bytes_shrink_by(form: Format, share: float) -> None:
    """Two of four values stay, each with two bits: (2 * bits + 4) / (4 * bits)."""
    assert weight_bytes(64, form, sparse=True) / weight_bytes(64, form) == share
    work = Work(macs=1, weight=1 << 20)
    assert least_time(work, TARGET, form).bound == "memory"
    assert greatest_gain(work, TARGET, form) == pytest.approx(1 / share)


def test_a_layer_bound_by_arithmetic_gains_the_sparse_factor() -> None:
    work = product(1 << 14, 1 << 14, 1 << 14)
    assert least_time(work, TARGET, Format.FP16).bound == "compute"
    assert greatest_gain(work, TARGET, Format.FP16) == 2
    slower = Target("less", (8, 0), TARGET.peak, TARGET.bandwidth, {Format.FP16: 1.25})
    assert greatest_gain(work, slower, Format.FP16) == 1.25


def test_a_layer_bound_by_its_activations_gains_nothing() -> None:
    assert greatest_gain(Work(1, 4, 1e12), TARGET, Format.FP16) == pytest.approx(1)
    assert greatest_gain(Work(0), TARGET, Format.FP16) == 1


def test_times_by_hand() -> None:
    """100 operations a second and 10 bytes: 2 * 300 / 100 = 6 s of arithmetic, (2 * 10 + 30) / 10 = 5 s of bytes."""
    work = Work(300, 10, 30)
    found = least_time(work, TARGET, Format.FP16)
    assert (found.compute, found.memory, found.seconds, found.bound) == (6, 5, 6, "compute")
    sparse = least_time(work, TARGET, Format.FP16, sparse=True)
    assert (sparse.compute, sparse.memory) == (3, (20 * 9 / 16 + 30) / 10)
    assert intensity(work, Format.FP16) == 600 / 50


def test_a_target_without_sparse_products_saves_bytes_alone() -> None:
    dense = Target("dense", (7, 5), TARGET.peak, TARGET.bandwidth)
    assert greatest_gain(product(1 << 14, 1 << 14, 1 << 14), dense, Format.FP16) == 1


@pytest.mark.parametrize("name", KNOWN)
def test_known_targets_are_plausible(name: str) -> None:
    """Within a factor of the others; fewer bits are never slower, and sparsity begins with 8.0."""
    found = KNOWN[name]
    assert 0.1e12 < found.bandwidth < 10e12 and 1e12 < found.peak[Format.FP16] < 10e15
    assert found.peak[Format.FP32] <= found.peak[Format.FP16] <= found.peak[Format.INT8]
    assert bool(found.sparse) == (found.capability >= (8, 0))
    assert found.source and find_target(name) is found


def test_a_capability_stands_for_a_device() -> None:
    for capability, name in BY_CAPABILITY.items():
        assert ".".join(map(str, KNOWN[name].capability)) == capability
        assert find_target(capability) is find_target(f"sm{capability.replace('.', '')}") is KNOWN[name]
    assert find_target("NVIDIA L4") is find_target("l4")
    assert find_target("GeForce RTX 4090") is find_target("rtx4090")


def test_a_target_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    line = find_target("name=mine,capability=8.9,bandwidth=3e11,peak.fp16=121e12,sparse.fp16=2,cache=48")
    toml, document = tmp_path / "mine.toml", tmp_path / "mine.json"
    toml.write_text('capability = "8.9"\nbandwidth = 3e11\ncache = 48\n[peak]\nfp16 = 121e12\n[sparse]\nfp16 = 2\n')
    table = {"capability": 8.9, "bandwidth": 3e11, "cache": 48, "peak": {"fp16": 121e12}, "sparse": {"fp16": 2}}
    document.write_text(json.dumps(table))
    assert line == find_target(str(toml)) == find_target(str(document))
    assert line.capability == (8, 9) and line.peak == {Format.FP16: 121e12}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rtx4099", "did you mean rtx4090"),
        ("3.5", "no target '3.5'"),
        ("missing.toml", "cannot read the target"),
        ("capability=8.9,bandwidth=1", "does not say its peak"),
        ("capability=8.9,bandwidth=fast,peak.fp16=1", "expected a number for bandwidth, found 'fast'"),
        ("capability=8.9,bandwidth=inf,peak.fp16=1", "expected a number for bandwidth"),
        ("capability=8.9,bandwidth=-1,peak.fp16=1", "expected a positive bandwidth"),
        ("capability=new,bandwidth=1,peak.fp16=1", "expected a capability such as 8.9, found 'new'"),
        ("capability=8.9,bandwidth=1,peak.fp17=1", "there is no format 'fp17'"),
        ("capability=8.9,bandwidth=1,peak=1", "expected a table of formats in peak"),
        ("capability=8.9,bandwidth=1,peak.fp16=1,sparse.int8=2", "int8 has a sparse factor, but no peak"),
        ("capability=8.9,bandwidth=1,peak.fp16=1,sparse.fp16=3", "from 1 to 2, found 3"),
        ("capability=8.9,bandwidth=1,peak.fp16=1,speed=1", "unknown field 'speed'"),
        ("capability=8.9,bandwidth", "cannot read 'bandwidth'"),
        ("capability=8.9,capability=8.6", "cannot read 'capability=8.6'"),
    ],
)
def test_what_is_no_target_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said.replace("(", r"\(")) as caught:
        find_target(text)
    assert caught.value.hint


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name, content, said in (
        ("a.toml", "capability = ", "does not parse"),
        ("a.json", "{", "does not parse"),
        ("b.json", "[]", "expected a table, found list"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=said):
            find_target(str(tmp_path / name))


@pytest.mark.parametrize(
    ("device", "target", "is_it"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100", True),
        ("NVIDIA A100-SXM4-80GB", "a10", False),
        ("NVIDIA L40S", "l4", False),
        ("NVIDIA GeForce RTX 4090", "rtx4090", True),
        ("NVIDIA H200", "h100", False),
        ("toy", "l4", True),
        ("NVIDIA L4", "orin", True),
    ],
)
def test_times_of_another_device_are_refused(device: str, target: str, is_it: bool, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"device": device, "times": []}))
    asked = find_target(target)
    if is_it:
        assert load_kernel_times(path, asked).device == device
        return
    with pytest.raises(DataError, match=f"on {device}, not on {asked.name}"):
        load_kernel_times(path, asked)


def test_kernel_times_are_interpolated_and_never_extrapolated(tmp_path: Path) -> None:
    def row(rows: int, dense: float, sparse: float | None, **others: object) -> dict[str, object]:
        size = {"format": "fp16", "rows": rows, "inputs": 64, "outputs": 32, "dense": dense, "sparse": sparse}
        return {**size, **others}

    path = tmp_path / "times.json"
    rows = [row(4, 4, 2), row(1, 1, 1), row(4, 8, 1.5), row(64, 1, None), row(4, 1, 1, inputs=128)]
    path.write_text(json.dumps({"device": "toy", "times": rows}))
    found = load_kernel_times(path)
    assert found.device == "toy"
    assert found.seconds(Format.FP16, 1, 64, 32) == pytest.approx((1e-6, 1e-6))
    assert found.seconds(Format.FP16, 4, 64, 32) == pytest.approx((4e-6, 1.5e-6))  # the fastest of each
    assert found.seconds(Format.FP16, 2, 64, 32) == pytest.approx((2e-6, 1.5**0.5 * 1e-6))
    for rows_, inputs, form in (
        (5, 64, Format.FP16),
        (4, 32, Format.FP16),
        (4, 64, Format.INT8),
        (2, 128, Format.FP16),
    ):
        assert found.seconds(form, rows_, inputs, 32) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "are no JSON"),
        ("[]", "have no list `times`"),
        ('{"times": [1]}', r"times\[0\]: expected format"),
        ('{"times": [{"format": "fp16", "rows": 1, "inputs": 1, "outputs": 1, "dense": 1}]}', "expected format, rows"),
        (
            '{"times": [{"format": "f", "rows": 1, "inputs": 1, "outputs": 1, "dense": 1, "sparse": 1}]}',
            "expected a format of fp32",
        ),
        (
            '{"times": [{"format": "fp16", "rows": 0, "inputs": 1, "outputs": 1, "dense": 1, "sparse": 1}]}',
            "expected positive sizes",
        ),
        (
            '{"times": [{"format": "fp16", "rows": 1, "inputs": 1, "outputs": 1, "dense": NaN, "sparse": 1}]}',
            "expected positive microseconds",
        ),
    ],
)
def test_what_is_no_table_of_times_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        load_kernel_times(path)
    with pytest.raises(DataError, match="cannot read"):
        load_kernel_times(tmp_path / "missing.json")
