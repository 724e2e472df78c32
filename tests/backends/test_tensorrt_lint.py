"""Lint says of every construct in the table what TensorRT-RTX does with it, and says so without TensorRT."""

from __future__ import annotations

import pytest
from helpers import tensorrt_models as models
from helpers.tensorrt_constructs import CONSTRUCTS, Construct
from helpers.zoo import zoo

from secateur.backends.tensorrt import BuildOptions, Profile, build, parse_shape
from secateur.backends.tensorrt.lint import Severity
from secateur.ir.errors import BackendError, SecateurError
from secateur.linting import LintReport, lint

WORST = (
    (Severity.REFUSED, "refused"),
    (Severity.CHANGED, "changed"),
    (Severity.SLOWER, "slower"),
)
EACH = pytest.mark.parametrize("construct", CONSTRUCTS.values(), ids=list(CONSTRUCTS))


def linted(construct: Construct, path) -> LintReport:
    ranges = [parse_shape(text) for text in construct.shapes]
    shapes = {one.input: (one.min, one.opt, one.max) for one in ranges}
    return lint(path, target=",".join(["tensorrt-rtx", *construct.targets]), shapes=shapes)


def verdict(report: LintReport) -> str:
    found = {finding.severity for finding in report.findings}
    return next((word for severity, word in WORST if severity in found), "taken")


@EACH
def test_lint_says_what_the_table_says(construct, tmp_path):
    report = linted(construct, models.save(tmp_path / "model.onnx", construct.make()))
    assert verdict(report) == construct.verdict, str(report)
    assert all(one.reason and one.remedy and one.source for one in report.findings)
    assert report.is_clean == (construct.verdict in ("taken", "slower"))


@EACH
def test_tensorrt_does_what_the_table_says(construct, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    path = models.save(tmp_path / "model.onnx", construct.make())
    profile = Profile(tuple(parse_shape(text) for text in construct.shapes))
    options = BuildOptions(
        flavor="tensorrt-rtx",
        compute_capabilities=construct.targets,
        optimization_level=0,
        profiles=(profile,) if construct.shapes else (),
    )
    if construct.verdict == "refused" or construct.name == "uint8 activation":
        with pytest.raises(BackendError):
            build(path, tmp_path / "out.engine", options)
        return
    report = build(path, tmp_path / "out.engine", options)
    # A runtime_fusion that reads int8 dequantizes it first; kernels of these kinds multiply it.
    products = [layer for layer in report.layers if layer.kind in ("correlation", "deconv", "gemm")]
    narrow = any(dtype.startswith(("Int8", "FP8")) for layer in products for dtype in layer.reads)
    if construct.runs:
        assert narrow == (construct.runs == "int8"), report.layers
    if construct.runs == "int8":
        assert report.quantized_in_float == ()


@pytest.mark.parametrize("name", sorted(zoo("small")))
def test_no_architecture_that_builds_is_refused(name):
    """The architectures of the zoo were built; these are the ones that TensorRT-RTX 1.7 refuses, and for what."""
    model = zoo("small")[name]
    if not model.path().exists():
        pytest.skip("not exported yet")
    try:
        report = lint(model.path(), target="tensorrt-rtx,8.9")
    except SecateurError:
        pytest.skip("cannot be read")
    refused = {one.node.split()[0] for one in report.findings if one.severity is Severity.REFUSED}
    assert refused == REFUSED.get(name, set())


REFUSED = {
    "experts-routed": {"NonZero", "ScatterND"},
    "experts-routed-opset17": {"NonZero"},
    "bert-opset23": {"Attention"},
    "llama-opset23": {"Attention"},
    "bert-fused": {
        "com.microsoft::BiasGelu",
        "com.microsoft::EmbedLayerNormalization",
        "com.microsoft::SkipLayerNormalization",
    },
    "gpt2-fused": {"com.microsoft::FastGelu", "com.microsoft::SkipLayerNormalization"},
}
