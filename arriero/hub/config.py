"""What config.json says of a model's language part: its window, its vocabulary, its layers.

A model that also sees or hears describes each of its parts in a section of its own; what is asked for here is always
that of the part that reads and writes text. Files that leave a number out mean the default of the model's type.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arriero.errors import ArrieroError
from arriero.hub import four_bits
from arriero.hub.weights import read_json

SECTIONS = ("text_config", "llm_config", "language_config")  # as published files call it
WINDOW = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def language_config(model_dir: Path) -> dict[str, Any]:
    """The language model's part of config.json, as it is written there; empty where there is no file."""
    return language_section(read_json(model_dir / "config.json"))


def language_section(config: dict[str, Any]) -> dict[str, Any]:
    """That part of a config.json that has been read; the very same object."""
    return next((config[name] for name in SECTIONS if isinstance(config.get(name), dict)), config)


def window(model_dir: Path) -> int:
    """The model's context in tokens, prompt and completion together; ArrieroError where nothing says it."""
    tokens = _number(model_dir, WINDOW)
    if tokens is None:
        raise ArrieroError(f"{model_dir / 'config.json'} does not say how many tokens the model can read")
    return tokens


def original_context(config: Mapping[str, Any]) -> int:
    """The most tokens that longrope encodes by its short factors, from a language model's settings.

    One token more, and the positions of all of them are encoded by the long factors. Without longrope sys.maxsize.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scalings = [rope, *(scaling for scaling in rope.values() if isinstance(scaling, dict))]  # one, or one a layer type
    if not any("long_factor" in scaling for scaling in scalings):
        return sys.maxsize
    lengths = [place.get("original_max_position_embeddings") for place in (config, *scalings)]
    return next((length for length in lengths if isinstance(length, int)), 0)


def vocabulary(model_dir: Path) -> int | None:
    """How many token ids the model has embeddings for; None where nothing says it."""
    return _number(model_dir, ("vocab_size",))


def quantisation(model_dir: Path) -> str | None:
    """How weights are stored in fewer bits, by transformers' name of the method; None where they are not."""
    return four_bits.method(read_json(model_dir / "config.json"))


def _number(model_dir: Path, names: tuple[str, ...]) -> int | None:
    """The first of these settings that the language model has: in the file, else by its type's defaults."""
    config = language_config(model_dir)
    written = [config[name] for name in names if isinstance(config.get(name), int)]
    if written or "model_type" not in read_json(model_dir / "config.json"):
        return int(written[0]) if written else None
    from transformers import AutoConfig  # half a second, which most models need not wait

    try:
        complete = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError):
        return None  # of a type that cannot be loaded: that is said when it is
    values = (getattr(complete.get_text_config(), name, None) for name in names)
    return next((int(value) for value in values if isinstance(value, int)), None)
