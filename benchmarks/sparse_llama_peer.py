"""llm-compressor's SparseGPT, 2:4, in its own environment: `python sparse_llama_peer.py MODEL TOKENS OUTPUT`.

MODEL is a folder that `transformers` wrote, TOKENS an `.npz` with `input_ids` [samples, length], OUTPUT a folder.
"""

from __future__ import annotations

import sys

import numpy as np


def main(model: str, tokens: str, output: str) -> None:
    """Reads, sparsifies, writes."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    ids = np.load(tokens)["input_ids"]
    data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})
    network = AutoModelForCausalLM.from_pretrained(model)
    # It insists on a tokenizer, and has nothing to do for it: the data is tokens.
    processor = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0})), pad_token="")
    recipe = SparseGPTModifier(sparsity=0.5, mask_structure="2:4", targets=["Linear"], ignore=["re:.*lm_head"])
    oneshot(
        model=network,
        processor=processor,
        dataset=data,
        recipe=recipe,
        max_seq_length=ids.shape[1],
        num_calibration_samples=len(ids),
    )
    network.save_pretrained(output, save_compressed=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
