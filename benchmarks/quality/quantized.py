"""What the table of quantization has: models with their data, formats, and pipelines by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from quality import fashion, lite, minilm, ocr, smollm2, terrain
from quality.task import Metric, Task

FLOAT, DEFAULT, SMOOTH, SPARSE = "float", "default", "smooth-quant", "2:4 + INT8"
FORMATS: Mapping[str, str] = MappingProxyType({"INT8": "int8", "FP8": "fp8", "INT4 weights": "int4", SPARSE: "int8"})
"""Columns of the table, as `quantize` calls them."""


@dataclass(frozen=True)
class Method:
    """A row of ours.

    Attributes:
        passes: with FORMAT where the format goes.
        formats: of which tables it is a row.
    """

    passes: str
    formats: tuple[str, ...] = ("INT8", "FP8", "INT4 weights")

    def is_for(self, form: str, is_transformer: bool) -> bool:
        """Whether a model has this row in the table of a format."""
        return form in self.formats and (is_transformer or "smooth-quant" not in self.passes)

    def pipeline(self, form: str) -> str:
        """The text of the passes."""
        return self.passes.replace("FORMAT", f"format={FORMATS[form]}")


def _quantize(options: str, *formats: str) -> Method:
    return Method(f"quantize{{FORMAT, {options}}}", formats)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        DEFAULT: Method("quantize{FORMAT}"),
        SMOOTH: Method("smooth-quant{insert=true, alpha=none},quantize{FORMAT, calibration=max}", ("INT8",)),
        "gptq": _quantize("rounding=gptq", "INT8", "FP8"),
        "correct-bias": Method("quantize{FORMAT},correct-bias", ("INT8", "FP8")),
        "nearest": _quantize("rounding=nearest", "INT8", "INT4 weights"),
        "squant": _quantize("rounding=squant", "INT8"),
        "gptq, clip=mse": _quantize("rounding=gptq, clip=mse", "INT8", "INT4 weights"),
        "nearest, clip=mse": _quantize("rounding=nearest, clip=mse", "INT8", "INT4 weights"),
        "awq": Method("awq,quantize{FORMAT}", ("INT4 weights",)),
        "products": _quantize("products=true", "INT8"),
        **{f"calibration={name}": _quantize(f"calibration={name}", "INT8") for name in ("max", "entropy")},
        **{
            f"percentile {share}": _quantize(f"calibration=percentile, percentile={share}", "INT8")
            for share in ("99.9", "99.99", "99.999")
        },
        "token 99.99": _quantize("calibration=token", "INT8"),
        "OBR": Method("sparsify,quantize{FORMAT, rounding=obr}", (SPARSE,)),
        "OBR, correct-bias": Method("sparsify,quantize{FORMAT, rounding=obr},correct-bias", (SPARSE,)),
        # Layers that were fitted together no longer give what they gave one by one: rounded to the nearest.
        "permute, refit-blocks, nearest": Method(
            "permute,sparsify,refit-blocks{steps=200},quantize{FORMAT, rounding=nearest}", (SPARSE,)
        ),
        "armor": Method("armor,quantize{FORMAT}", (SPARSE,)),
        "SparseGPT, GPTQ": Method(
            "sparsify{criterion=sparsegpt, repair=sweep},quantize{FORMAT, rounding=gptq}", (SPARSE,)
        ),
        "sparse alone": Method("sparsify", (SPARSE,)),
    }
)
PEERS: Mapping[str, str] = MappingProxyType(
    {
        "onnxruntime": "nncf",
        "onnxruntime, for TensorRT": "nncf",
        "NNCF": "nncf",
        "modelopt": "modelopt",
        "modelopt, max": "modelopt",
        "aimet-onnx": "aimet",
    }
)
"""Rows of `quantized_peers.py`, with the environment that each runs in: they do not get on with each other."""
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nncf": ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.31.1", "onnx-ir==1.1.0", "torch==2.13.0"),
        "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "torch==2.13.0"),
        "aimet": ("aimet-onnx==2.42.0", "torch==2.13.0", "torchvision==0.28.0"),
    }
)
TRANSFORMERS = frozenset({"vit", "minilm", "smollm2"})

_fashion = partial(replace, fashion.RESNET, judge=fashion.likelihood, metrics=(*fashion.METRICS, Metric("NLL", ".4f")))
_CONVOLUTIONS, _PRODUCTS = ("INT8", "FP8", SPARSE), ("INT8", "FP8", "INT4 weights", SPARSE)
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        name: replace(task, amounts={form: FORMATS[form] for form in formats}, methods=tuple(METHODS))
        for name, task, formats in (
            ("resnet", _fashion(), _CONVOLUTIONS),
            ("vgg", _fashion(title="VGG / Fashion-MNIST", model=lambda: fashion.trained("vgg")), _CONVOLUTIONS),
            (
                "vit",
                _fashion(title="vision transformer / Fashion-MNIST", model=lambda: fashion.trained("vit")),
                _PRODUCTS,
            ),
            ("efficientnet", lite.TASK, _CONVOLUTIONS),
            ("minilm", minilm.TASK, _PRODUCTS),
            ("terrain", terrain.TASK, _CONVOLUTIONS),
            ("ocr", ocr.TASK, _CONVOLUTIONS),
            (
                "smollm2",
                replace(smollm2.TASK, calibrate=partial(smollm2.calibrate, 32, 256, 4)),
                ("INT8", SPARSE),
            ),
        )
    }
)
"""By name. SmolLM2's weights lie on a grid of four bits already, so that its rows are those of data and sparsity."""
