"""The architectures of the instruct models that hubs are asked for most, as tiny random models on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.conftest import build_tokenizer
from tests.training.architectures import SIZES, tiny

# the model type that config.json names, and models of it that people know
KINDS = {
    "llama": "Llama 3, SmolLM2, Vicuna",
    "qwen2": "Qwen2.5, DeepSeek-R1-Distill",
    "qwen2_moe": "Qwen1.5-MoE",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3-30B-A3B",
    "qwen3_next": "Qwen3-Next",
    "qwen2_5_vl": "Qwen2.5-VL, text only",
    "qwen3_vl": "Qwen3-VL, text only",
    "mistral": "Mistral 7B",
    "mixtral": "Mixtral 8x7B",
    "mistral3": "Mistral Small 3.1, text only",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 1B",
    "gemma3": "Gemma 3 4B to 27B, text only",
    "phi": "Phi-2",
    "phi3": "Phi-3, Phi-4",
    "gpt2": "GPT-2, DialoGPT",
    "gpt_neox": "Pythia, Dolly",
    "gptj": "GPT-J",
    "gpt_oss": "gpt-oss",
    "bloom": "BLOOMZ",
    "falcon": "Falcon 7B",
    "opt": "OPT-IML",
    "stablelm": "StableLM",
    "smollm3": "SmolLM3",
    "olmo2": "OLMo 2",
    "granite": "Granite 3",
    "cohere2": "Command R7B",
    "deepseek_v3": "DeepSeek-V3, Kimi K2",
    "glm4": "GLM-4",
    "lfm2": "LFM2",
}
WINDOW, VOCABULARY = 256, 264  # Qwen2's class of tokenizers adds a token of its own
LENGTHS = {"vocab_size": VOCABULARY, "max_position_embeddings": WINDOW, "n_positions": WINDOW, "seq_length": WINDOW}
TEXT = SIZES | LENGTHS
OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "layerdrop": 0.0},
    "falcon": {"new_decoder_architecture": False, "multi_query": True},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
}
SEES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14}  # fmt: skip
NAMES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
         "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window")  # fmt: skip
SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
SEEING: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {"layer_types": OWN["gemma3_text"]["layer_types"]},
        "vision_config": SEES,
        "mm_tokens_per_image": 1,
    },
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": SECTIONS, "layer_types": ["full_attention"] * 2},
        "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
                          "fullatt_block_indexes": [0]},
    },
    "qwen3_vl": {
        "text_config": {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
        "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
                          "deepstack_visual_indexes": [0]},
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", "sliding_window": None},
        "vision_config": {"model_type": "pixtral", **SEES, "head_dim": 8},
    },
}  # fmt: skip


def build(kind: str, directory: Path) -> Path:
    """A tiny random model of a kind in `directory`, float32, with the tiny tokenizer."""
    model = _seeing(kind) if kind in SEEING else tiny(kind, **(LENGTHS | OWN.get(kind, {})))
    if kind == "bloom":
        model.config.seq_length = WINDOW  # as its published files have it; its class knows no window
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


def _seeing(kind: str) -> torch.nn.Module:
    """A model that sees, whose language model is of the usual sizes."""
    own = SEEING[kind]
    sizes = {name: TEXT[name] for name in NAMES if kind != "qwen3_vl" or name != "sliding_window"}
    standard = transformers.AutoConfig.for_model(kind)
    config = type(standard)(**{**own, "text_config": sizes | own["text_config"]}, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    for weight in model.parameters():
        weight.data.mul_(4) if weight.dim() > 1 else None
    return model
