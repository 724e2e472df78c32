"""Operators that dimensions end at, each with the reason: what they touch stays as it is."""

from __future__ import annotations

from secateur.ir.node import Op

_SEQUENCES = "works on sequences and optional values, whose elements have no axes in common"
_STRINGS = "works on strings"
_WINDOW = "makes numbers for a size that is itself a number"
_SIGNAL = "mixes all positions of a signal"
_LOSS = "is a training loss, which takes class numbers"
_DECODING = "runs a whole decoder of its own"
_PACKED = "packs sequences of many lengths"
_PREPACKED = "has weights packed for one device"
_QUANTIZED = "is made by a runtime's own optimizer; quantize with QuantizeLinear and DequantizeLinear instead"
_OPTIMIZED = "is made by a runtime's own optimizer; prune the model that it was made from"

BOUNDARIES: dict[str, str] = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "has a body"),
    **dict.fromkeys(
        (
            *"ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct".split(),
            *"SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence".split(),
        ),
        _SEQUENCES,
    ),
    **dict.fromkeys(
        "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer com.microsoft::Tokenizer".split(),
        _STRINGS,
    ),
    **dict.fromkeys("BlackmanWindow HammingWindow HannWindow MelWeightMatrix".split(), _WINDOW),
    **dict.fromkeys("DFT STFT com.microsoft::Irfft com.microsoft::Rfft".split(), _SIGNAL),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), _LOSS),
    "Constant": "holds a tensor that nothing here can read",
    "ImageDecoder": "makes an image whose size a run finds out",
    "NonMaxSuppression": "gives positions, as many as a run finds",
    "Unique": "keeps what a run finds out",
    "com.microsoft::Unique": "keeps what a run finds out",
    **dict.fromkeys(
        (f"com.microsoft::{name}" for name in "BeamSearch GreedySearch Sampling WhisperBeamSearch".split()), _DECODING
    ),
    **dict.fromkeys(
        (
            f"com.microsoft::{name}"
            for name in "PackedAttention PackedMultiHeadAttention PagedAttention RemovePadding RestorePadding".split()
        ),
        _PACKED,
    ),
    **dict.fromkeys(
        (
            f"com.microsoft::{name}"
            for name in "GatherBlockQuantized MatMulBnb4 MatMulFpQ4 MatMulNBitsMlp MatMulNBitsQkv".split()
        ),
        _PREPACKED,
    ),
    **dict.fromkeys(
        (
            f"com.microsoft::{name}"
            for name in (
                "DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulIntegerToFloat QAttention QEmbedLayerNormalization "
                "QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
                "QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere"
            ).split()
        ),
        _QUANTIZED,
    ),
    **dict.fromkeys(
        (
            f"com.microsoft::{name}"
            for name in (
                "BiasDropout BiasSoftmax BiasSplitGelu BitmaskBiasDropout BitmaskDropout DecoderAttention "
                "DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention FusedMatMulActivation GemmFastGelu "
                "LongformerAttention NhwcConv NhwcFusedConv"
            ).split()
        ),
        _OPTIMIZED,
    ),
}
"""op type -> why no rule speaks of it, to be read after the op's name."""


def boundary(op: Op) -> str:
    """Why an op without a rule ends dimensions."""
    name = f"{op.key[0]}::{op.op_type}" if op.key[0] else op.op_type
    return f"{op} {BOUNDARIES.get(name, 'has no rule for dimensions')}"
