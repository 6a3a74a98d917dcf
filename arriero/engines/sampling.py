"""What a model's own generation_config.json says about sampling."""

from __future__ import annotations

from pathlib import Path

from arriero import hub
from arriero.messages import Sampling


def default_sampling(model_dir: Path) -> Sampling:
    """Complete sampling parameters from the model's generation config; greedy where it does not say `do_sample`.

    top_k 0, top_p 1, min_p 0, repetition_penalty 1 and the other penalties 0 mean "off".
    """
    config = hub.read_json(model_dir / "generation_config.json")

    def value(name: str, otherwise: float) -> float:
        found = config.get(name)
        return otherwise if found is None else found

    return Sampling(
        temperature=value("temperature", 1.0) if config.get("do_sample") else 0.0,
        top_p=value("top_p", 1.0),
        top_k=int(value("top_k", 0)),
        min_p=value("min_p", 0.0),
        repetition_penalty=value("repetition_penalty", 1.0),
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )
