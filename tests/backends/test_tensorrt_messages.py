import pytest

from secateur.backends.tensorrt.layers import LayerTensor, kernels_by_node, layers_from_log, onnx_nodes
from secateur.backends.tensorrt.messages import Message, clean, errors, memory_figures, sparsity_lines, warnings
from secateur.backends.tensorrt.progress import Monitor
from secateur.backends.tensorrt.quantized import Quantized, precisions

DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
    "version))"
)

RTX = """Layers:
Name: conv, Inputs: [1]/x} ], LayerType: correlation, Inputs: [ { Name: x, a, Dimensions: [-1,8,16,16], \
Strides: [1,1], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], \
Constants: [ { Name: w, Dimensions: [8,8,3,3], Strides: [72], Datatype: Int8, Format: (NHWC) Channel major format }, \
{ Name: s, Dimensions: [1], Datatype: Float, Format: (Linear) Row major linear format }], \
Outputs: [ { Name: y, Dimensions: [1,8,16,16], Datatype: Half, Format: (NHWC) Channel major format }], \
TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: a, b][ONNX Layer: c[0]]
Name: wait, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:\x20

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [1,8,16,16]
"""

FULL = """Layers:
Name: c + r, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,3,32,32], \
Format/Datatype: Half }], Outputs: [ { Name: y, Location: Device, Dimensions: [1,64,32,32], Format/Datatype: Half }], \
ParameterType: Convolution, Kernel: [3,3], Weights: {"Type": "Half", "Count": 1728}, HasSparseWeights: 1, \
Activation: RELU, TacticName: sm80_xmma_fprop, TacticValue: 0x28, StreamId: 0, Metadata: \
[ONNX Layer: c]\x1e[ONNX Layer: r]
Name: copy, LayerType: Reformat, Inputs: [ { Name: y, Location: Device, Dimensions: [1,64,32,32], Format/Datatype: \
Half }], Outputs: [ { Name: z, Location: Device, Dimensions: [], Format/Datatype: Float }], ParameterType: Reformat, \
Origin: REFORMAT, TacticValue: 0x03e8, StreamId: 0, Metadata: """


def table(text: str):
    return layers_from_log([Message("INFO", "before"), Message("VERBOSE", text)])


def test_layer_table_of_rtx_with_hostile_names():
    (first, second), note = table(RTX)
    assert note is None
    assert first.name == "conv, Inputs: [1]/x} ]"
    assert first.inputs == (LayerTensor("x, a", "Int8", (-1, 8, 16, 16)),)
    assert [tensor.shape for tensor in first.constants] == [(8, 8, 3, 3), (1,)]
    assert (first.reads, first.outputs[0].dtype) == (("Int8",), "Half")
    assert (first.tactic, first.onnx_nodes) == ("__myelin_CASK_STUB", ("a, b", "c[0]"))
    assert (first.contracts, second.contracts, first.has_sparse_weights) == (True, False, None)
    assert (second.inputs, second.tactic, second.onnx_nodes) == ((), "", ())


def test_layer_table_of_tensorrt():
    (first, second), note = table(FULL)
    assert note is None
    assert (first.kind, first.tactic, first.has_sparse_weights) == ("CaskConvolution", "sm80_xmma_fprop", True)
    assert (first.reads, first.onnx_nodes) == (("Half",), ("c", "r"))
    assert (second.outputs, second.tactic) == ((LayerTensor("z", "Float", ()),), "")


@pytest.mark.parametrize(
    "text",
    [
        RTX.replace("LayerType", "Kind"),
        RTX.replace("Datatype: Float", "Type: Float"),
        RTX.replace("Outputs: []", "Outputs: none"),
        "Layers:\nconv1\nconv2",
    ],
)
def test_table_of_another_form_gives_no_layers_and_says_so(text):
    layers, note = table(text)
    assert layers == ()
    assert note is not None
    assert "another form" in note


def test_no_table_at_all():
    assert layers_from_log([]) == ((), "layers unknown: the builder wrote no layer table")


def test_nodes_are_found_by_kernel():
    layers, _ = table(RTX)
    assert kernels_by_node(layers) == {"a, b": (layers[0],), "c[0]": (layers[0],)}
    found = precisions([Quantized("a, b", "int8"), Quantized("elsewhere", "int8")], layers)
    assert [(one.found, one.is_honoured) for one in found] == [("int8", True), (None, False)]
    [full] = precisions([Quantized("c", "int8")], table(FULL)[0])
    assert (full.found, full.is_honoured) == ("fp16", False)
    assert onnx_nodes("") == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network must have at least one output. "
            "In validate at /_src/optimizer/api/network.cpp:3810)",
            "Network must have at least one output.",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:1500: run_passes] Cannot compile. "
            "In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)",
            "Cannot compile.",
        ),
        (f"Invalid Node - conv0\nreal reason\n{DRIVER}\nreal reason", "real reason"),
        ("onnxOpImporters.cpp:1980: UINT8 is odd", "UINT8 is odd"),
        ("nothing (to do) here", "nothing (to do) here"),
    ],
)
def test_clean_keeps_what_is_said(text, expected):
    assert clean(text) == expected
    assert clean(expected) == expected


def test_driver_complaint_is_noise_unless_it_is_all():
    assert errors([Message("ERROR", "broken"), Message("ERROR", DRIVER), Message("WARNING", "odd")]) == ("broken",)
    assert "cudaError 35" in errors([Message("ERROR", DRIVER)])[0]
    assert errors([]) == ()


def test_warnings_without_our_own_loggers():
    noise = "WARNING The logger passed into createInferBuilder differs from one already registered for a builder"
    assert warnings([Message("WARNING", noise), Message("WARNING", "odd"), Message("WARNING", "odd")]) == ("odd",)


def test_figures_and_sparsity_are_read_and_nothing_else():
    rows = [
        Message("INFO", "Total Host Persistent Memory: 80 bytes"),
        Message("INFO", "Max Scratch Memory: 8208384 bytes"),
        Message("VERBOSE", "Total Weights Memory: 1 bytes"),
        Message("INFO", "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: a, b"),
        Message("INFO", "about (Sparsity) nothing"),
    ]
    assert memory_figures(rows) == {"host_persistent": 80, "scratch": 8208384}
    assert sparsity_lines(rows) == ("(Sparsity) Found 2 layer(s) eligible to use sparse tactics: a, b",)


def test_inner_phases_share_one_step_of_the_outer():
    seen = []
    monitor = Monitor(seen.append)
    monitor._phase_start("outer", None, 2)
    monitor._phase_start("inner", "outer", 4)
    assert all(monitor._step_complete("inner", step) for step in range(4))
    monitor._phase_finish("inner")
    monitor._step_complete("outer", 0)
    monitor._phase_start("again", "outer", 2)
    monitor._step_complete("again", 0)
    monitor._step_complete("unannounced", 0)
    assert [event.fraction for event in seen] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.75, 1.0]
    monitor.cancel()
    assert not monitor._step_complete("outer", 1)
    assert len(seen) == 7
