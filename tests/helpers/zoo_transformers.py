"""Models of the `transformers` package from a configuration: true sizes, or a few narrow layers.

In the small ones no two sizes agree by chance: hidden is not heads times head size where the architecture lets it
differ, and vocabulary, feed-forward, tokens, batch and classes all have numbers of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from helpers.zoo_torch import Recipe, ids, normal

hub: Any = transformers
"""Its configurations take more arguments than they declare."""

_PLAIN = {"return_dict": False}
_DECODER = {"return_dict": False, "use_cache": False}


def resnet50(small: bool) -> Recipe:
    sizes = {"embedding_size": 12, "hidden_sizes": [20, 36, 52], "depths": [2, 2, 1], "num_labels": 11}
    config = hub.ResNetConfig(**sizes) if small else hub.ResNetConfig(num_labels=1000)
    return _vision(hub.ResNetForImageClassification(config), (40, 48) if small else (224, 224))


def mobilenet_v2(small: bool) -> Recipe:
    sizes = {"depth_multiplier": 0.25, "num_labels": 11} if small else {"num_labels": 1000}
    config = hub.MobileNetV2Config(tf_padding=False, **sizes)
    return _vision(hub.MobileNetV2ForImageClassification(config), (64, 96) if small else (224, 224))


def convnext(small: bool) -> Recipe:
    sizes = {"num_stages": 2, "hidden_sizes": [20, 44], "depths": [2, 2], "num_labels": 11}
    config = hub.ConvNextConfig(**sizes) if small else hub.ConvNextConfig(num_labels=1000)
    return _vision(hub.ConvNextForImageClassification(config), (32, 40) if small else (224, 224))


def swin(small: bool) -> Recipe:
    sizes: dict[str, Any] = {"image_size": (40, 88), "patch_size": 2, "embed_dim": 30, "depths": [2, 2]}
    sizes |= {"num_heads": [3, 5], "window_size": 4, "mlp_ratio": 2.4, "num_labels": 11}
    config = hub.SwinConfig(**sizes) if small else hub.SwinConfig(num_labels=1000)
    return _vision(hub.SwinForImageClassification(config), (40, 88) if small else (224, 224))


def vit(small: bool) -> Recipe:
    sizes: dict[str, Any] = {"hidden_size": 60, "num_attention_heads": 5, "intermediate_size": 112, "num_labels": 11}
    sizes |= {"num_hidden_layers": 2, "image_size": (24, 28), "patch_size": 4}
    config = hub.ViTConfig(**sizes) if small else hub.ViTConfig(num_labels=1000)
    return _vision(hub.ViTForImageClassification(config), (24, 28) if small else (224, 224))


def bert(small: bool) -> Recipe:
    sizes: dict[str, Any] = {"hidden_size": 60, "num_attention_heads": 5, "intermediate_size": 112, "vocab_size": 97}
    sizes |= {"num_hidden_layers": 2, "max_position_embeddings": 40, "num_labels": 4}
    config = hub.BertConfig(**sizes) if small else hub.BertConfig(num_labels=4)
    tokens = ids(config.vocab_size, *((3, 11) if small else (1, 128)))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "token_type_ids": tokens % 2}
    return Recipe(hub.BertForSequenceClassification(config), inputs, ("logits",), _PLAIN, _text_axes(inputs))


def gpt2(small: bool) -> Recipe:
    sizes = {"n_embd": 60, "n_head": 5, "n_inner": 112, "n_layer": 2, "n_positions": 40, "vocab_size": 97}
    config = hub.GPT2Config(**_no_tokens(), **sizes) if small else hub.GPT2Config()
    return _decoder(hub.GPT2LMHeadModel(config), small)


def llama(small: bool) -> Recipe:
    """About 100 million parameters, 12 query and 4 key-value heads; small: 8 and 2 heads of 14 in a trunk of 72."""
    config = hub.LlamaConfig(**(_grouped() if small else _grouped_full()), intermediate_size=104 if small else 2048)
    return _decoder(hub.LlamaForCausalLM(config), small)


def llama_mqa(small: bool) -> Recipe:
    """One key-value head for all query heads."""
    sizes = {**(_grouped() if small else _grouped_full()), "num_key_value_heads": 1}
    config = hub.LlamaConfig(**sizes, intermediate_size=104 if small else 2048)
    return _decoder(hub.LlamaForCausalLM(config), small)


def llama_positions(small: bool) -> Recipe:
    """A Llama that is told where each token stands, so that its rotation depends on an input."""
    recipe = llama(small)
    shape = recipe.inputs["input_ids"].shape
    positions = torch.arange(shape[1]).expand(shape).contiguous()
    return replace(recipe, inputs={**recipe.inputs, "position_ids": positions})


def mixtral(small: bool) -> Recipe:
    experts = {"intermediate_size": 44, "num_local_experts": 5, "num_experts_per_tok": 2}
    if not small:
        experts = {"intermediate_size": 1024, "num_local_experts": 8, "num_experts_per_tok": 2}
    config = hub.MixtralConfig(**(_grouped() if small else _grouped_full(layers=4)), **experts)
    return _decoder(_batched(hub.MixtralForCausalLM, config), small, tokens=32)


def qwen_moe(small: bool) -> Recipe:
    """Qwen2's mixture of experts: a shared expert with a gate beside the routed ones; one layer is dense."""
    sizes: dict[str, Any] = {"moe_intermediate_size": 34, "shared_expert_intermediate_size": 52, "num_experts": 5}
    sizes |= {"num_experts_per_tok": 2, "intermediate_size": 104, "mlp_only_layers": [1]}
    if not small:
        sizes |= {"moe_intermediate_size": 512, "shared_expert_intermediate_size": 1024, "num_experts": 16}
        sizes |= {"num_experts_per_tok": 4, "intermediate_size": 2048}
    config = hub.Qwen2MoeConfig(**(_grouped() if small else _grouped_full(layers=4)), **sizes)
    return _decoder(_batched(hub.Qwen2MoeForCausalLM, config), small, tokens=32)


def t5(small: bool) -> Recipe:
    sizes = {"d_model": 56, "d_kv": 12, "num_heads": 5, "d_ff": 104, "vocab_size": 97, "num_layers": 2}
    config = hub.T5Config(num_decoder_layers=3, **sizes) if small else hub.T5Config(**_t5_small())
    tokens = ids(config.vocab_size, *((3, 9) if small else (1, 128)))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    inputs["decoder_input_ids"] = ids(config.vocab_size, *((3, 11) if small else (1, 64)))
    # T5 does not divide its scores by the root of the head size; its queries start that much smaller.
    gains = {"Attention.q": config.d_kv**-0.5}
    return Recipe(hub.T5ForConditionalGeneration(config), inputs, ("logits",), _DECODER, gains=gains)


def _t5_small() -> dict[str, Any]:
    return {"d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048, "num_layers": 6, "vocab_size": 32128}


def _grouped() -> dict[str, Any]:
    sizes = {"hidden_size": 72, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 14, "vocab_size": 97}
    return {**sizes, "num_hidden_layers": 2, "max_position_embeddings": 40, **_no_tokens()}


def _grouped_full(layers: int = 12) -> dict[str, Any]:
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 32000}
    return {**sizes, "num_hidden_layers": layers, "max_position_embeddings": 2048, **_no_tokens()}


def _no_tokens() -> dict[str, Any]:
    return {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}


def _batched(model: Any, config: Any) -> Any:
    # The default implementation loops over the experts that are hit, which no exporter can follow. This one gathers
    # the weights of the chosen experts for each token, so memory grows with tokens: keep examples short.
    return model._from_config(config, experts_implementation="batched_mm")


def _vision(module: torch.nn.Module, image: tuple[int, int]) -> Recipe:
    inputs = {"pixel_values": normal(1 if image[0] > 200 else 2, 3, *image)}
    return Recipe(module, inputs, ("logits",), _PLAIN, {"pixel_values": {0: "batch"}})


def _decoder(module: torch.nn.Module, small: bool, tokens: int = 128) -> Recipe:
    text = ids(module.config.vocab_size, *((3, 11) if small else (1, tokens)))
    inputs = {"input_ids": text, "attention_mask": torch.ones_like(text)}
    return Recipe(module, inputs, ("logits",), _DECODER, _text_axes(inputs))


def _text_axes(inputs: dict[str, torch.Tensor]) -> dict[str, dict[int, str]]:
    return {name: {0: "batch", 1: "sequence"} for name in inputs}
