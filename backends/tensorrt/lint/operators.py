"""Operators that TensorRT-RTX has no importer for, or one that cannot work, and domains that it does not look at."""

from __future__ import annotations

from secateur.backends.tensorrt.lint.finding import Severity, Source
from secateur.backends.tensorrt.lint.rule import Rule
from secateur.backends.tensorrt.lint.site import Site

IMPORTED = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
    Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
    IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization
    LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot
    Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements
    ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    ImageScaler ParametricSoftplus ScaledTanh SimplifiedLayerNormalization SkipSimplifiedLayerNormalization
    MatMulNBits GroupQueryAttention MultiHeadAttention
    TRT_Attention TRT_FP4DynamicQuantize TRT_FP8DequantizeLinear TRT_FP8QuantizeLinear TRT_INT4DequantizeLinear
    TRT_INT4QuantizeLinear TRT_KVCacheUpdate TRT_MXFP8DequantizeLinear TRT_MXFP8DynamicQuantize TRT_MXFP8QuantizeLinear
    TRT_MoE
    """.split()
)
"""What `OnnxParser.supports_operator` of TensorRT-RTX 1.7.1 says yes to, by the name alone, whatever the domain."""

WITHOUT_PLUGIN = frozenset(
    {"CausalConvWithState", "LinearAttention", "MatMulNBits", "NonMaxSuppression", "NonZero", "RoiAlign"}
)
"""Operators that have an importer, which then looks for a plugin or a kernel that TensorRT-RTX does not have."""

_SAME = frozenset(
    {
        *(("com.microsoft", name) for name in ("DequantizeLinear", "Gelu", "MatMulNBits", "QuantizeLinear")),
        *(("com.microsoft", name) for name in ("GroupQueryAttention", "MultiHeadAttention")),
        ("com.microsoft", "SkipSimplifiedLayerNormalization"),
    }
)
"""Operators of other domains that mean what the importer of that name takes them for."""

_REMEDIES = {
    "quantized": "run the pass import-quantized: it writes QuantizeLinear and DequantizeLinear around float operators",
    "training": "take the loss or the optimizer out of the model",
    "host": "compute it outside of the engine",
    "sequence": "unroll the sequence into tensors",
    "bits": "write it with arithmetic on int32 or int64",
}
_KINDS = {
    "quantized": "ConvInteger DynamicQuantizeLinear DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat "
    "MatMulNBits QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
    "QLinearLeakyRelu QLinearMatMul QLinearMul QLinearSigmoid QLinearSoftmax QLinearWhere",
    "training": "Adagrad Adam Gradient Momentum NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "host": "Compress ImageDecoder NonMaxSuppression NonZero RegexFullMatch RoiAlign StringConcat StringNormalizer "
    "StringSplit TfIdfVectorizer Unique LabelEncoder TreeEnsemble",
    "sequence": "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct "
    "SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence",
    "bits": "BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
}
_KIND = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_REST = "write it with operators that TensorRT has, or move it out of the model"


def _unknown(site: Site) -> str | None:
    if site.op.op_type in IMPORTED:
        return None
    return "TensorRT has no such operator"


def _without_plugin(site: Site) -> str | None:
    if site.op.op_type not in WITHOUT_PLUGIN or site.target.flavor != "tensorrt-rtx":
        return None
    return "its importer looks for a plugin or a kernel that TensorRT-RTX does not have"


def _taken_for_another(site: Site) -> str | None:
    domain, name = site.op.key
    foreign = domain not in ("", "trt") and (domain, name) not in _SAME
    if not foreign or name not in IMPORTED:
        return None
    return f"TensorRT does not look at the domain and takes it for ONNX's {name}, whatever {domain!r} means by it"


def _kind_rule(kind: str | None) -> Rule:
    def check(site: Site) -> str | None:
        return _unknown(site) or _without_plugin(site) if _KIND.get(site.op.op_type) == kind else None

    return Rule((), check, _REMEDIES.get(kind or "", _REST))


RULES: tuple[Rule, ...] = (
    *(_kind_rule(kind) for kind in (*_KINDS, None)),
    Rule(
        (),
        _taken_for_another,
        "rename it to an operator that ONNX has, or give it a name of its own",
        Source.LOG,
        Severity.CHANGED,
    ),
)
