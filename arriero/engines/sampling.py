"""A model's own sampling defaults: what its generation_config.json says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.errors import ArrieroError, UsageError
from arriero.messages import Sampling

log = logging.getLogger(__name__)
# What transformers' GenerationConfig has and this does not follow, with the values that leave an answer as it is; None
# always does. (End-of-turn tokens are read with the tokenizer.)
NEUTRAL: dict[str, tuple[object, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "diversity_penalty": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "max_length": (20,),  # transformers' own default
    "max_new_tokens": (),  # an answer that is cut off because nobody asked for a limit helps nobody
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1,),
    "watermarking_config": (),
}


def default_sampling(model_dir: Path, adapter_dir: Path | None = None) -> Sampling:
    """Complete sampling parameters from the model's generation config; greedy where it does not say `do_sample`.

    What a generation_config.json in the adapter's directory says overrides the model's.
    top_k 0, top_p 1, min_p 0, repetition_penalty 1 and the other penalties 0 mean "off". What the config says and
    Arriero does not follow is logged as a warning. Raises ArrieroError for a config whose values make no sense.
    """
    config = hub.read_json(model_dir / "generation_config.json")
    if adapter_dir is not None:
        config |= hub.read_json(adapter_dir / "generation_config.json")
    if ignored := _ignored(config):
        log.warning("%s: generation_config.json asks for what is not followed: %s", model_dir.name, ignored)

    def value(name: str, otherwise: float) -> float:
        given = config.get(name)
        return otherwise if given is None else given

    try:
        return Sampling(
            temperature=value("temperature", 1.0) if config.get("do_sample") else 0.0,
            top_p=value("top_p", 1.0),
            top_k=max(int(value("top_k", 0)), 0),  # some write -1 for "off"
            min_p=value("min_p", 0.0),
            repetition_penalty=value("repetition_penalty", 1.0),
            presence_penalty=value("presence_penalty", 0.0),
            frequency_penalty=value("frequency_penalty", 0.0),
        )
    except (UsageError, TypeError, ValueError) as error:
        raise ArrieroError(
            f"{model_dir / 'generation_config.json'} makes no sense: {error}", hint="arriero models verify"
        ) from error


def _ignored(config: dict[str, Any]) -> str:
    """What would change answers and is not followed, for people to read; empty where there is nothing."""
    ignored = [
        f"{name} {config[name]}"
        for name, neutral in NEUTRAL.items()
        if config.get(name) is not None and config[name] not in neutral
    ]
    if config.get("temperature") not in (None, 0, 1) and config.get("do_sample") is None:
        ignored.append(
            f"temperature {config['temperature']} without do_sample, so answers are greedy as in transformers"
        )
    return ", ".join(ignored)
