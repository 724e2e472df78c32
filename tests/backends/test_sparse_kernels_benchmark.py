"""What of the benchmark of sparse kernels can be tested without a GPU: its operands, its checks, its file, its end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.ir.kernel_times import load_kernel_times
from secateur.ir.targets import Format

torch = pytest.importorskip("torch")
PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "sparse_kernels.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("sparse_kernels_benchmark", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def ticking(run: Any) -> float:
    """A clock that runs what it is given, and counts."""
    run()
    ticking.count = getattr(ticking, "count", 0) + 1  # type: ignore[attr-defined]
    return float(ticking.count)  # type: ignore[attr-defined]


def test_each_product_comes_once(benchmark: Any) -> None:
    found = benchmark.cases(["bert", "vit"], [1, 16], ["fp16", "int8"])
    assert len(found) == len(set(found)) == 4 * 2 * 2
    assert all(form in list(Format) for form in benchmark.FORMATS)


@pytest.mark.parametrize("form", ["fp16", "bf16", "int8"])
def test_weights_are_2_of_4_and_the_same_every_time(benchmark: Any, form: str) -> None:
    case = benchmark.Case(form, 8, 64, 32)
    data, weight = benchmark._operands(torch, case, "cpu")
    again = benchmark._operands(torch, case, "cpu")
    assert torch.equal(data, again[0]) and torch.equal(weight, again[1])
    assert data.shape == (8, 64) and weight.shape == (32, 64)
    kept = np.count_nonzero(weight.float().numpy().reshape(32, -1, 4), axis=-1)
    assert kept.max() == 2
    np.testing.assert_allclose(
        benchmark._dense(torch, data, weight)()[:8].double(), benchmark._exact(torch, data, weight), rtol=0.02, atol=0.1
    )


def test_a_refused_shape_is_a_row_without_a_time(benchmark: Any, tmp_path: Path) -> None:
    """A CPU has no sparse kernels, so every one is refused, in the library's own words."""
    rows = list(benchmark.measure(torch, benchmark.cases(["smollm2"], [4], ["fp16"]), ticking, "cpu"))
    assert len(rows) == 4 * len(benchmark.LIBRARIES)
    assert all(row.sparse is None and row.gain is None and "CUDA" in row.refused for row in rows)
    benchmark.save(rows, "none", {}, tmp_path / "times.json")
    assert load_kernel_times(tmp_path / "times.json").times == {}
    benchmark.show(rows, "none")


def test_what_is_saved_can_be_read(benchmark: Any, tmp_path: Path) -> None:
    def row(library: str, sparse: float) -> Any:
        return benchmark.Row("int8", 16, 64, 32, library, dense=3.0, sparse=sparse)

    rows = [row("cutlass", 2.5), row("cusparselt", 1.5)]
    assert rows[1].gain == 2
    benchmark.save(rows, "toy", {"torch": "1"}, tmp_path / "a" / "times.json")
    found = load_kernel_times(tmp_path / "a" / "times.json")
    assert found.device == "toy"
    assert found.seconds(Format.INT8, 16, 64, 32) == pytest.approx((3e-6, 1.5e-6))


def test_a_wrong_product_is_an_error(benchmark: Any) -> None:
    case = benchmark.Case("int8", 2, 4, 2)
    expected = torch.tensor([[300.0, -5.0]], dtype=torch.float64)
    for right in (torch.tensor([[44, -5]], dtype=torch.int8), torch.tensor([[127, -5]], dtype=torch.int8)):
        benchmark._check(torch, case, "toy", right, expected)
    benchmark._check(torch, case, "toy", torch.tensor([[300, -5]], dtype=torch.int32), expected)
    for wrong in (torch.tensor([[45, -5]], dtype=torch.int8), torch.tensor([[280, -5]], dtype=torch.int32)):
        with pytest.raises(ArithmeticError, match="toy gives a wrong product"):
            benchmark._check(torch, case, "toy", wrong, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--rows", "1"]) == benchmark.NO_DEVICE
    assert "no CUDA device" in capsys.readouterr().err
