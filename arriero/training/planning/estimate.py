"""What training would cost here: parameters, time and memory, before anything is loaded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from arriero import hub
from arriero.hardware import fast_bfloat16, gpus
from arriero.training.planning.plan import PREFERRED
from arriero.training.targets import language_part

IN_4_BITS = 0.516  # bytes of a weight: half a byte, and 8 bits of scale for 64 of them, which have scales in turn
UTILISATION = 0.45  # share of the matrix rate that a training step reaches, as measured on a small model


@dataclass(frozen=True, slots=True)
class Estimate:
    """`matrix_rate` in floating-point operations per second, as measured here just now; the rest is arithmetic.

    A LoRA step costs 4 operations per parameter and token: 2 forward, 2 to pass gradients back (no weight gradients).
    """

    parameters: int
    matrix_rate: float
    seconds_per_epoch: float
    memory_bytes: int


def estimate(
    model_dir: Path,
    *,
    tokens: int,
    step_tokens: int,
    longest: int = 0,
    row_tokens: int | None = None,
    in_4bit: bool = False,
) -> Estimate:
    """For one epoch that computes `tokens`, `step_tokens` in an optimizer step, in rows of `row_tokens` or what fits.

    A row is never shorter than the `longest` example. Needs the model's config only.
    """
    row = max(longest, min(step_tokens, row_tokens or PREFERRED["cuda" if gpus() else "cpu"]))
    config = _config(model_dir)
    model = _shape(model_dir, config)
    parameters = _count(model)
    text = config.get_text_config()
    rate = matrix_rate()
    width = 2 if fast_bfloat16() else 4
    # per token and layer: attention's and the feed-forward's inputs and outputs; of the logits a slice, in float32 too
    hidden, inner = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size)
    per_token = width * text.num_hidden_layers * (12 * hidden + 4 * inner)
    logits = 256 * (2 * width + 8) * text.vocab_size
    quantised = _quantised(model) if in_4bit else 0
    weights = width * (parameters - quantised) + round(IN_4_BITS * quantised)
    return Estimate(
        parameters=parameters,
        matrix_rate=rate,
        seconds_per_epoch=4 * parameters * tokens / (rate * UTILISATION),
        memory_bytes=weights + row * per_token + logits,
    )


def _config(model_dir: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    return config


def count_parameters(model_dir: Path) -> int:
    """Of a model's language part."""
    return _count(_shape(model_dir, _config(model_dir)))


def _shape(model_dir: Path, config: PretrainedConfig) -> Any:
    """The model without weights."""
    with torch.device("meta"):
        return hub.auto_class(model_dir).from_config(config)


def _count(model: Any) -> int:
    return int(sum(weight.numel() for weight in language_part(model).parameters()))


def _quantised(model: Any) -> int:
    """The weights that are kept in 4 bits: those of all linear layers but the head."""
    head = model.get_output_embeddings()
    layers = (layer for layer in language_part(model).modules() if isinstance(layer, (nn.Linear, Conv1D)))
    return sum(layer.weight.numel() for layer in layers if layer is not head)


def matrix_rate() -> float:
    """Floating-point operations per second of a square matrix product in the type training would use."""
    # on a GPU the smaller one takes less time than its launch
    device, size = ("cuda", 8192) if gpus() else ("cpu", 2048)
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16 if fast_bfloat16() else torch.float32)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((factor @ factor)[0, 0])  # reading a number waits for the GPU
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
