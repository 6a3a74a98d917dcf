"""How much of a machine vLLM takes, told from sizes and files: GPUs, their memory, room for adapters.

Imports no vLLM, so that it can be tested where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.engines.adapters import lora_rank
from arriero.engines.base import Precision
from arriero.errors import MemoryLimitError

FOUR_BITS = 0.29  # of bfloat16: half a byte, and a scale in float32 for 64 of them
RANK = 32  # adapters up to this rank can be added later, whatever the engine was started with
SLOTS = 4, 16  # adapters in one step of the model: at least, at most; others wait for their turn
SHARE = 0.9  # of a GPU's memory, at most: weights, KV cache and what a step needs
OF_FREE = 0.95  # of what other programs leave: vLLM does not start if it finds less than it is to fill
CONTEXT = 1_000_000_000  # bytes that CUDA, cuBLAS and NCCL take in vLLM's process before it looks what is free


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU: those that can still be allocated, and all."""

    free: int
    total: int

    @property
    def usable(self) -> float:
        """Bytes that vLLM can be told to fill."""
        return max(0.0, min(SHARE * self.total, OF_FREE * self.free, self.free - CONTEXT))


@dataclass(frozen=True, slots=True)
class LoraRoom:
    """The largest rank of an adapter, and how many adapters one step of the model computes with."""

    rank: int
    slots: int


def lora_room(adapters: Sequence[Path], ranks: Sequence[int]) -> LoraRoom:
    """Room for these adapters, and for others up to RANK; vLLM has memory laid out for some `ranks`, ascending."""
    largest = max([RANK, *map(lora_rank, adapters)])
    return LoraRoom(next(rank for rank in ranks if rank >= largest), min(max(SLOTS[0], len(adapters)), SLOTS[1]))


def memory_share(gpus: Sequence[Memory]) -> float:
    """The part of each of these GPUs' memory that vLLM is to fill, its gpu_memory_utilization."""
    return min(SHARE, *(gpu.usable / gpu.total for gpu in gpus))


def weight_bytes(model_dir: Path, precision: Precision) -> float:
    """Of a model's weights as vLLM will hold them: as they are stored, or its layers in 4 bits (`FOUR_BITS`)."""
    stored = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    if precision != "int4" or hub.quantisation(model_dir) is not None:
        return stored
    config = hub.language_config(model_dir)
    tables = 1 if config.get("tie_word_embeddings") else 2
    width: int = config.get("hidden_size", 0)
    kept = min(stored, 2 * tables * (hub.vocabulary(model_dir) or 0) * width)
    return kept + FOUR_BITS * (stored - kept)


def gpus_for(model_dir: Path, gpus: Sequence[Memory], precision: Precision = "auto") -> int:
    """How many of the GPUs a model is spread over: the fewest whose usable memory keeps a third for the KV cache.

    vLLM wants the attention heads to divide evenly, and those of keys to divide or be repeated evenly. Raises
    MemoryLimitError where the weights do not fit into any number of them, which vLLM would find out after a minute.
    """
    weights = weight_bytes(model_dir, precision)
    if hub.quantisation(model_dir) == "bitsandbytes":
        gpus = gpus[:1]  # what is quantised cannot be divided any more
    config = hub.language_config(model_dir)
    heads = config.get("num_attention_heads", 1)
    of_keys = config.get("num_key_value_heads") or heads
    possible = [number for number in (1, 2, 4, 8) if number <= len(gpus) and heads % number == 0]
    possible = [number for number in possible if of_keys % number == 0 or number % of_keys == 0]
    room = {number: number * min(gpu.usable for gpu in gpus[:number]) for number in possible}
    most = max(room.values())
    if weights > most:
        raise MemoryLimitError(
            f"the weights of {model_dir.name} take {weights / 1e9:.1f} GB, and vLLM can use {most / 1e9:.1f} GB here",
            hint="end what else computes there (nvidia-smi lists it), or take a smaller model",
        )
    return next((number for number in possible if 3 * weights <= 2 * room[number]), max(room, key=room.__getitem__))


def described(whole: int, config: Any) -> str:
    """What vLLM made of its memory, by its VllmConfig: context (`whole` is the model's own), KV cache, adapters."""
    window, cache, lora = config.model_config.max_model_len, config.cache_config, config.lora_config
    clauses = [f"a context of {window:,} tokens"]
    if window < whole:
        clauses[0] += f", since memory does not hold the model's {whole:,}"
    if cache.num_gpu_blocks:
        clauses.append(f"a KV cache of {cache.num_gpu_blocks * cache.block_size:,}")
    clauses.append(f"adapters up to rank {lora.max_lora_rank}, {lora.max_loras} in a step" if lora else "no adapters")
    return "; ".join(clauses)
