"""A tiny real embedding model, whose ids are easy to spell out: a word is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from arriero.embeddings import Embedder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "llama", "vet", "who", "drives", "a", "query:", "passage:", "man"]
# ids:      0        1        2        3        4       5      6       7       8       9         10         11


def build_embedding_model(
    directory: Path,
    *,
    pooling: str = "pooling_mode_mean_tokens",
    steps: Sequence[str] = ("Transformer", "Pooling", "Normalize"),
    prompts: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A random BERT of two layers for embeddings of 16 numbers, in sentence-transformers' layout; a window of 24.

    A word is an id, see WORDS; `config` goes into its config.json, `prompts` is config_sentence_transformers.json.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(3)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(
        BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, pad_token_id=0, **shape, **config),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)  # as published ones have it; it must not be in force
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(directory)
    kinds = [step if "." in step else f"sentence_transformers.models.{step}" for step in steps]
    listed = [
        {"idx": number, "name": str(number), "path": f"{number}_{step}" if number else "", "type": kind}
        for number, (step, kind) in enumerate(zip(steps, kinds, strict=True))
    ]
    files = {
        "modules.json": listed,
        "1_Pooling/config.json": {"word_embedding_dimension": 16, pooling: True},
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
        "config_sentence_transformers.json": prompts or {},
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.fixture(scope="session")
def embedding_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedding model on disk, called "words"."""
    return build_embedding_model(tmp_path_factory.mktemp("models") / "words")


@pytest.fixture(scope="session")
def embedder(embedding_dir: Path) -> Iterator[Embedder]:
    """That model in a process of its own; its window is 24."""
    with Embedder(embedding_dir) as opened:
        yield opened


@pytest.fixture(scope="session")
def prompted_embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    """Another, "m", with prompts for queries and passages, whose vectors may be cut to 4 numbers."""
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}
    directory = tmp_path_factory.mktemp("models") / "m"
    with Embedder(build_embedding_model(directory, prompts=prompts, matryoshka_dimensions=[4])) as opened:
        yield opened
