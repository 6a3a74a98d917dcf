"""Every causal language model of the installed transformers with a rotary function, as tiny random models."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

LARGEST = 2_000_000  # parameters
ROTARY = re.compile(r"^def apply_rotary_pos_emb\(", re.MULTILINE)
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "sliding_window": 64, "layer_types": ["full_attention"] * 2,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "residual_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "embedding_dropout": 0.0,
    # mixtures of experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "moe_k": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "num_shared_experts": 1, "shared_expert_intermediate_size": 16,
    "mlp_layer_types": ["dense", "sparse"], "expert_ffn_hidden_size": 16, "moe_topk": 2, "zero_expert_num": 1,
    "ffn_hidden_size": 48, "num_layers": 2, "moe_layer_start_index": 1, "moe_layer_end_index": 1,
    # latent attention
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "index_topk": 64, "index_n_heads": 2, "index_head_dim": 8,
    # state-space and linear layers beside attention
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    # as the oldest call them
    "n_embd": 32, "n_inner": 48, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128, "rotary_dim": 4,
}  # fmt: skip
LATENT = {"head_dim": 4, "num_key_value_heads": 4}  # heads of the part that is rotated, one key to a query
OWN = {
    "zaya": {"num_experts_per_tok": 1},
    "zamba2": {"layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1]},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "cohere_compass_text": {"layer_types": ["sliding_attention"] * 2},
}


def home(model_type: str) -> Path | None:
    """The file that models of a type are written in."""
    name = transformers.models.auto.configuration_auto.model_type_to_module_name(model_type)
    file = Path(transformers.__file__).parent / "models" / name / f"modeling_{name}.py"
    return file if file.is_file() else None


def with_rotary() -> list[str]:
    """The types of models whose file has a rotary function, in alphabetical order."""
    homes = {model_type: home(model_type) for model_type in CLASSES}
    return sorted(kind for kind, file in homes.items() if file is not None and ROTARY.search(file.read_text()))


def tiny(model_type: str, dtype: torch.dtype = torch.float32, **extra: object) -> torch.nn.Module:
    """Two small layers with random weights, large enough that an answer depends on what is asked."""
    name = transformers.models.auto.configuration_auto.model_type_to_module_name(model_type)
    own = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    standard = transformers.AutoConfig.for_model(model_type)
    accepted = set(inspect.signature(type(standard).__init__).parameters) | set(standard.to_dict())
    sizes = SIZES | (LATENT if "kv_lora_rank" in accepted else {}) | OWN.get(model_type, {}) | extra
    config = type(standard)(**{size: value for size, value in sizes.items() if size in accepted})
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in getattr(own, CLASSES[model_type])(config).parameters())
    if parameters > LARGEST:
        raise ValueError(f"its sizes have other names: {parameters / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = getattr(own, CLASSES[model_type])(config).to(dtype)
    for weight in model.parameters():
        weight.data.mul_(4) if weight.dim() > 1 else None
    return model
