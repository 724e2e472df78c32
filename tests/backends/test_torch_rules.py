"""The torch rules, one by one: the graphs for single operators, and the node tests that define ONNX."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from helpers import models
from helpers.graphs import tiny_graphs
from helpers.operator_cases import CASES
from helpers.operator_net import Case, Net
from helpers.torch_runs import distance, distances
from helpers.zoo import random_feeds, zoo
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from secateur.backends.onnxruntime_runner import OnnxRuntimeRunner
from secateur.backends.torch import Program, TorchRunner, compile_torch, torch_rules
from secateur.backends.torch.plan import plan
from secateur.ir import Graph, Value, onnx_read
from secateur.ir.errors import BackendError
from secateur.ir.onnx_write import to_bytes

torch = pytest.importorskip("torch")
TOLERANCE = 1e-5

DRAWN = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""What is drawn at random differs from one runtime to the next."""

ROUNDED_MORE = {"com.microsoft::QMoE": 0.03}
"""Where onnxruntime's kernels quantize activations as well, which the operator does not ask for."""

UNKNOWN = """
    ArrayFeatureExtractor Binarizer LabelEncoder TreeEnsemble Adagrad Adam Momentum FlexAttention ImageDecoder
    RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer
""".split()
"""Operators of the node tests that have no rule: strings, trees, training, a preview, pictures in files."""

OTHERWISE = {
    # onnxruntime reckons with whole sizes, the node tests with the size that the scales would give.
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
"""Node tests from which onnxruntime differs, and we with it."""

SHORT = {
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_roialign_aligned_false",
    "test_roialign_aligned_true",
}
"""Node tests whose outputs are given to four digits."""

COARSE = {np.dtype(np.float16): 2e-3, np.dtype(ml_dtypes.bfloat16): 2e-2}
"""The last bit or two of a narrow type, of the largest number."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any]:
    with TorchRunner(graph) as runner:
        return runner.run(feeds)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_an_operator_gives_what_onnxruntime_gives(case: Case) -> None:
    net = case.make()
    found = run(net.graph, net.feeds)
    if case.op in DRAWN or not case.runs:
        assert all(np.isfinite(array.astype(np.float64)).all() for array in found.values())
        return
    if case.runs == "ort":
        with OnnxRuntimeRunner(net.graph, threads=1) as runner:
            wanted = runner.run(net.feeds)
    else:
        made = ReferenceEvaluator(to_bytes(net.graph)).run(None, net.feeds)
        wanted = dict(zip(found, made, strict=True))
    apart = distances(wanted, found)
    assert max(apart.values()) <= ROUNDED_MORE.get(case.op, TOLERANCE), apart


@cache
def node_tests() -> dict[str, Any]:
    """The tests that the onnx package generates for its operators, with inputs and outputs; twins left out."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    # An expanded twin has the same numbers, computed by more elementary operators.
    return {case.name: case for case in found if not case.name.endswith("_expanded")}


def is_drawn(name: str) -> bool:
    return "bernoulli" in name or "training_dropout" in name


def array_of(given: Any) -> Any:
    return numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given


def agrees(wanted: Any, found: Any, near: float) -> bool:
    if isinstance(wanted, list | tuple):
        pairs = zip(wanted, found, strict=False)
        return len(wanted) == len(found) and all(agrees(one, other, near) for one, other in pairs)
    wanted = np.asarray(wanted)
    return distance(wanted, found) <= COARSE.get(wanted.dtype, near)


def test_the_node_tests_of_onnx() -> None:
    wrong, unknown, right = [], set(), 0
    for name, case in node_tests().items():
        graph = onnx_read.from_proto(case.model)
        if {op.op_type for op in graph.ops()} & set(UNKNOWN) or "string" in name:
            with pytest.raises(BackendError, match="no rule"):
                compile_torch(graph)
            unknown.add(name)
            continue
        for inputs, outputs in case.data_sets:
            feeds = {value.name: array_of(given) for value, given in zip(graph.inputs, inputs, strict=False)}
            found = list(run(graph, feeds).values())
            if is_drawn(name) or name in OTHERWISE:
                continue
            near = 1e-3 if name in SHORT else TOLERANCE
            if all(agrees(array_of(one), other, near) for one, other in zip(outputs, found, strict=True)):
                right += 1
            else:
                wrong.append(name)
    assert not wrong
    assert right > 1150 and len(unknown) < 80


_STORED_OTHERWISE = re.compile("bernoulli|training_dropout|window|roialign|scales_.*_align_corners|BFLOAT16")
"""Stored outputs that are drawn, were computed with a pi of four digits or rounded to four, or are of another type."""


@pytest.mark.parametrize(
    ("find", "at_least"),
    [(models.wheel_testdata, 120), pytest.param(models.onnx_testdata, 950, marks=pytest.mark.slow)],
)
def test_models_of_older_operator_sets(find: Callable[[], list[Path]], at_least: int) -> None:
    wrong, right, opsets = [], 0, set()
    for path in find():
        graph = onnx_read.load(path)
        if not has_rules(graph) or "STRING" in path.parent.name:
            continue
        for folder in path.parent.glob("test_data_set_*"):
            inputs, outputs = stored(folder, "input"), stored(folder, "output")
            if any(array is None for array in (*inputs, *outputs)) or _STORED_OTHERWISE.search(path.parent.name):
                continue  # a sequence, or see above
            feeds = {value.name: array for value, array in zip(graph.inputs, inputs, strict=False)}
            found = list(run(graph, feeds).values())
            opsets.add(graph.header.opset())
            if all(distance(one, other) <= 2 * TOLERANCE for one, other in zip(outputs, found, strict=True)):
                right += 1
            else:
                wrong.append(path.parent.name)
    assert not wrong
    assert right > at_least and opsets >= {6, 9}


def has_rules(graph: Graph) -> bool:
    try:
        compile_torch(graph)
    except BackendError:
        return False
    return True


def stored(folder: Path, kind: str) -> list[Any]:
    """The arrays in a folder of test data; None for a sequence."""
    found: list[Any] = []
    while (file := folder / f"{kind}_{len(found)}.pb").is_file():
        try:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())))
        except (DecodeError, TypeError, ValueError, KeyError):
            found.append(None)
    return found


@pytest.mark.parametrize("name", sorted(tiny_graphs()))
def test_tiny_graphs_have_rules_for_all_they_hold(name: str) -> None:
    compile_torch(tiny_graphs()[name]())


def test_every_rule_is_one_operator_of_onnx_or_onnxruntime() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    older = {"Affine", "ScaledTanh", "SimplifiedLayerNormalization"}
    assert {op for op in torch_rules if "::" not in op} <= known | older
    assert all(callable(torch_rules.find(op)) for op in torch_rules)
    assert all(len(inspect.signature(torch_rules.find(op)).parameters) == 1 for op in torch_rules)  # type: ignore[arg-type]


def _codes(net: Net, *shape: int) -> list[Value]:
    """A quantized tensor: codes that are fed, a scale, a zero point."""
    fed = net.input(*shape, dtype=np.uint8, most=256)
    return [fed, net.const(0.01 * (1 + len(net.feeds)), np.float32), net.const(128, np.uint8)]


def _quantized_ops() -> dict[str, Callable[[Net], Value]]:
    def of(op: str, *shapes: tuple[int, ...], **attributes: Any) -> Callable[[Net], Value]:
        def build(net: Net) -> Value:
            inputs = [value for shape in shapes for value in _codes(net, *shape)]
            output = [net.const(0.05, np.float32), net.const(100, np.uint8)]
            if op == "QLinearConcat":
                inputs, output = [*output, *inputs], []
            if op == "QLinearWhere":
                inputs = [net.const(np.eye(4) > 0, np.bool_), *inputs]
            if op == "QGemm":
                output = [net.const(np.arange(5), np.int32), *output]
            return net.op(f"com.microsoft::{op}", *inputs, *output, **attributes)

        return build

    image = (2, 3, 6, 6)
    return {
        "add": of("QLinearAdd", (4, 4), (1, 4)),
        "multiply": of("QLinearMul", (4, 4), (4, 1)),
        "sigmoid": of("QLinearSigmoid", (4, 9)),
        "leaky relu": of("QLinearLeakyRelu", (4, 9), alpha=0.2),
        "softmax": of("QLinearSoftmax", (4, 9), axis=-1, opset=13),
        "pool": of("QLinearAveragePool", image, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        "pool, channels last": of("QLinearAveragePool", image, kernel_shape=[2, 2], channels_last=1),
        "global pool": of("QLinearGlobalAveragePool", image),
        "concat": of("QLinearConcat", (4, 4), (4, 2), axis=1),
        "where": of("QLinearWhere", (4, 4), (4, 4)),
        "gemm": of("QGemm", (4, 3), (3, 5)),
        "gemm, transposed": of("QGemm", (4, 3), (5, 3), transB=1),
    }


@pytest.mark.parametrize("name", _quantized_ops())
def test_operators_on_codes_are_one_off_at_most(name: str) -> None:
    net = Net(21)
    net.done(_quantized_ops()[name](net))
    with OnnxRuntimeRunner(net.graph, threads=1) as runner:
        (wanted,) = runner.run(net.feeds).values()
    (found,) = run(net.graph, net.feeds).values()
    apart = np.abs(wanted.astype(int) - found.astype(int))
    assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.2 and len(np.unique(found)) > 3


DATA_DEPENDENT = DRAWN | {"NonZero", "Compress", "RoiAlign", "MaxRoiPool", "com.microsoft::MoE", "com.microsoft::QMoE"}
"""What must look at numbers to know a shape, or needs a generator on the device."""


@pytest.mark.parametrize("case", [case for case in CASES if case.op not in DATA_DEPENDENT], ids=lambda case: case.title)
def test_no_rule_waits_for_the_device_or_mixes_it_with_the_cpu(case: Case) -> None:
    """On torch's device without numbers: reading one fails, and so does an op between tensors there and on the CPU."""
    net = case.make()
    found = Program(plan(net.graph), torch.device("meta"))(
        {name: torch.from_numpy(array) for name, array in net.feeds.items()}
    )
    assert [tuple(tensor.shape) for tensor in found.values()] == [
        array.shape for array in run(net.graph, net.feeds).values()
    ]


@pytest.mark.parametrize("name", [name for name in zoo("small") if "routed" not in name])
def test_shapes_of_whole_models_stay_on_the_cpu(name: str) -> None:
    graph = zoo("small")[name]()
    feeds = {name: torch.from_numpy(array) for name, array in random_feeds(graph).items()}
    with torch.inference_mode():
        found = Program(plan(graph), torch.device("meta"))(feeds)
    assert {tensor.device.type for tensor in found.values()} == {"meta"}
