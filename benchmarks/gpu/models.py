"""Random Llamas on disk, made on the GPU where there is one: `python -m benchmarks.gpu.models DIRECTORY SHAPE`.

The tokenizer is made here, too, for a machine without network: one byte is one id, and the ids above that a model with
random weights writes are words that no text is made of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.lib.shapes import LLAMA_8B, TINY

SPECIALS = ("<pad>", "<s>", "</s>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": LLAMA_8B,
    "1b": {  # meta-llama/Llama-3.2-1B
        **LLAMA_8B,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "tie_word_embeddings": True,
    },
    "tiny": {**TINY, "head_dim": 16, "max_position_embeddings": 2048},
}


def main() -> None:
    """Write a model and its tokenizer."""
    directory, shape = Path(sys.argv[1]), SHAPES[sys.argv[2]] | IDS
    write_weights(directory, shape)
    write_tokenizer(directory, shape["vocab_size"])


def write_weights(directory: Path, shape: dict[str, Any]) -> None:
    """Random weights in bfloat16, in files of 4 GB at most."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.bfloat16)
    model.save_pretrained(directory, max_shard_size="4GB")


def write_tokenizer(directory: Path, ids: int) -> None:
    """Special tokens, the bytes, and words up to that many ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    written = [*SPECIALS, *(bytes_to_unicode()[byte] for byte in range(256))]
    vocabulary = {token: number for number, token in enumerate(written)}
    vocabulary |= {f"Ġw{number}": number for number in range(len(written), ids)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIALS[3:]),
        chat_template=TEMPLATE,
    ).save_pretrained(directory)


if __name__ == "__main__":
    main()
