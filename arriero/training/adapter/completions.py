"""Greedy answers of a model in memory, many at once: what a report shows as before and after training.

It is no engine: nothing is streamed and nothing can be cancelled. For the base model's answers call it
`with model.disable_adapter()`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig

from arriero import hub
from arriero.prompt import Renderer
from arriero.training.adapter.measure import underlying
from arriero.training.evaluation import evaluating
from arriero.training.sharding import is_sharded

BATCH = 8  # prompts


@dataclass(frozen=True, slots=True)
class GreedyCompletion:
    """An answer's text, without the stop token; `tokens` counts it. `length`: cut off at the limit."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


def greedy_completions(
    model: torch.nn.Module,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    stop_token_ids: Collection[int],
    *,
    max_new_tokens: int = 128,
) -> list[GreedyCompletion]:
    """The most likely token after token for each prompt (ids as `Renderer.prompt` makes them), in their order.

    Each prompt and `max_new_tokens` together have to fit into the model's window. Sampling defaults of the model's
    own play no part; they, the training flags and the cache setting are afterwards as they were.
    """
    by_index: dict[int, GreedyCompletion] = {}
    stops = sorted(stop_token_ids)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # similar lengths, little padding
    with evaluating(model), _no_defaults(underlying(model)) as plain:
        # with longrope a batch is encoded as its longest sequence
        most = hub.original_context(plain.config.get_text_config().to_dict()) - max_new_tokens
        within = [index for index in order if len(prompts[index]) <= most]
        batches = [within[start : start + BATCH] for start in range(0, len(within), BATCH)]
        for batch in [*batches, *([index] for index in order[len(within) :])]:
            rows = _generate(plain, [prompts[index] for index in batch], stops, max_new_tokens)
            by_index |= {index: _answer(renderer, row, stops) for index, row in zip(batch, rows, strict=True)}
    return [by_index[index] for index in range(len(prompts))]


def _generate(model: Any, prompts: list[Sequence[int]], stops: list[int], limit: int) -> list[list[int]]:
    """New ids of each prompt; rows that ended early are padded with a stop token."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(
        max_new_tokens=limit, do_sample=False, use_cache=True, eos_token_id=stops, pad_token_id=stops[0]
    )
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        synced_gpus=is_sharded(model),
    )
    rows: list[list[int]] = output[:, longest:].tolist()
    return rows


def _answer(renderer: Renderer, ids: list[int], stops: list[int]) -> GreedyCompletion:
    end = next((position for position, token in enumerate(ids) if token in stops), None)
    text = renderer.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return GreedyCompletion(str(text), "length" if end is None else "stop", len(ids) if end is None else end + 1)


@contextlib.contextmanager
def _no_defaults(model: Any) -> Iterator[Any]:
    """The model without generation defaults: generate() fills in from them whatever its caller left open."""
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield model
    finally:
        model.generation_config = before
