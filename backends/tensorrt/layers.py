"""The layer table that the builder writes to its log: which kernel runs which ONNX nodes, and in what number format.

It is all that can be known of an engine without a GPU, for loading an engine needs one. The table is one VERBOSE
message that starts with "Layers:" and has one line a kernel; both packages write it, with small differences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from secateur.backends.tensorrt.messages import Message


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a kernel reads or writes. `dtype` is NVIDIA's word: Float, Half, BFloat16, Int8, FP8, Int4, …"""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine.

    `onnx_nodes` are the nodes that it computes, wholly or in part: a convolution may be one kernel, its bias another.
    `tactic` is "" or a stub where the kernel is chosen only on the device (TensorRT-RTX). `has_sparse_weights` is said
    by `tensorrt` alone, and means that the weights are 2:4, not that the kernel makes use of it.
    """

    name: str
    kind: str
    inputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    tactic: str
    onnx_nodes: tuple[str, ...]
    has_sparse_weights: bool | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The data types of its activations and weights, each once; a constant of one axis, as a scale, counts not."""
        weights = (constant for constant in self.constants if sum(size != 1 for size in constant.shape) > 1)
        return tuple(dict.fromkeys(tensor.dtype for tensor in (*self.inputs, *weights)))

    @property
    def contracts(self) -> bool:
        """Whether this is a convolution or a matrix product, going by the kind that the builder gives it."""
        return any(word in self.kind.lower() for word in _CONTRACTIONS)

    @property
    def dequantizes(self) -> bool:
        """Whether this is a product that turns narrow operands into floats before it multiplies them."""
        return "runtime_fusion" in self.kind.lower()


_CONTRACTIONS = ("conv", "correlation", "gemm", "matmul", "matrixmultiply", "runtime_fusion")
_LIST = r"\[(?:| (?P<{}>\{{ Name: .*? \}}))\]"
_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>[^,]*), "
    rf"Inputs: {_LIST.format('inputs')}, "
    rf"(?:Constants: {_LIST.format('constants')}, )?"
    rf"Outputs: {_LIST.format('outputs')}(?:, (?P<rest>.*))?$"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), (?:Location: [^,]*, )?Dimensions: \[(?P<shape>[-\d,]*)\].*?"
    r"Datatype: (?P<dtype>[^,}]*?)(?:, Format: .*?)? \}(?=, \{ Name: |$)"
)
_TACTIC = re.compile(r"TacticName: (?P<tactic>.*?)(?:, (?:TacticValue|StreamId): |$)")
_SPARSE = re.compile(r"HasSparseWeights: (?P<flag>[01])")
_METADATA = re.compile(r"Metadata: (?P<text>\[.*)$")
_NODE = re.compile(r"\[ONNX Layer: (?P<node>.*?)\](?=[\x1e\s]*\[ONNX Layer: |[\x1e\s]*$)")


def layers_from_log(rows: Iterable[Message]) -> tuple[tuple[Layer, ...], str | None]:
    """The kernels of the engine that the log is about, and None; or no kernels and a sentence that says why.

    A table of which one line cannot be read gives no layers at all: half a table would look like a whole one.
    """
    table = next((row.text for row in rows if row.text.startswith("Layers:")), None)
    if table is None:
        return (), "layers unknown: the builder wrote no layer table"
    body = table.removeprefix("Layers:").strip("\n").split("\n\n", 1)[0]
    layers = []
    # Not splitlines: the separator between node names, \x1e, would count as an end of line.
    for line in filter(None, (line.strip() for line in body.split("\n"))):
        layer = _layer(line)
        if layer is None:
            return (), f"layers unknown: the builder's layer table has a line of another form: {line[:80]}"
        layers.append(layer)
    return tuple(layers), None


def kernels_by_node(layers: Iterable[Layer]) -> dict[str, tuple[Layer, ...]]:
    """ONNX node name -> the kernels that compute it. A node folded away at build time is not there.

    TensorRT calls a node without a name `node_of_` and the name of its first output.
    """
    found: dict[str, tuple[Layer, ...]] = {}
    for layer in layers:
        for node in layer.onnx_nodes:
            found[node] = (*found.get(node, ()), layer)
    return found


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """ "[ONNX Layer: a][ONNX Layer: b]" -> ("a", "b")."""
    return tuple(match["node"] for match in _NODE.finditer(metadata))


def _layer(line: str) -> Layer | None:
    match = _LINE.match(line)
    if not match:
        return None
    groups = [_tensors(match[part]) for part in ("inputs", "constants", "outputs")]
    inputs, constants, outputs = groups
    if inputs is None or constants is None or outputs is None:
        return None
    rest = match["rest"] or ""
    tactic, sparse, metadata = _TACTIC.search(rest), _SPARSE.search(rest), _METADATA.search(rest)
    return Layer(
        name=match["name"],
        kind=match["kind"],
        inputs=inputs,
        constants=constants,
        outputs=outputs,
        tactic=tactic["tactic"] if tactic else "",
        onnx_nodes=onnx_nodes(metadata["text"]) if metadata else (),
        has_sparse_weights=sparse["flag"] == "1" if sparse else None,
    )


def _tensors(text: str | None) -> tuple[LayerTensor, ...] | None:
    """None where the text holds more than the tensors that were understood."""
    if not text:
        return ()
    matches = list(_TENSOR.finditer(text))
    if len(", ".join(match[0] for match in matches)) != len(text):
        return None
    return tuple(
        LayerTensor(match["name"], match["dtype"], tuple(int(size) for size in match["shape"].split(",") if size))
        for match in matches
    )
