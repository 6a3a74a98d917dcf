"""How a model turns hidden states into one vector, as its own sentence-transformers files say.

    modules.json                        the steps: Transformer, Pooling and perhaps Normalize
    1_Pooling/config.json               how to pool
    sentence_bert_config.json           the window
    config_sentence_transformers.json   prompts: what is put before a query, before a document
    config.json                         matryoshka_dimensions, is_matryoshka: to how many numbers vectors may be cut

https://sbert.net/docs/package_reference describes the files. A step or a way of pooling that is not done here is an
error, for without it the vectors would be others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from arriero import hub
from arriero.errors import ArrieroError, NotFoundError, UsageError

Kind = Literal["query", "document"]
Pooling = Literal["mean", "cls", "lasttoken"]
STEPS = (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
# how older versions write the ways of pooling
FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to do with a text.

    `window` is in tokens, special tokens and prompt included; None where only the tokenizer may know it. `dimension` is
    how many numbers a vector has; `shorter` to how many it may be cut, empty where it must not be. `prompts` has texts
    by name.
    """

    pooling: Pooling
    normalize: bool
    dimension: int
    vocabulary: int
    window: int | None
    positions: int
    prompts: Mapping[str, str]
    default_prompt: str | None
    lowercase: bool
    shorter: range | tuple[int, ...]

    def prompt(self, kind: Kind | None) -> str:
        """What to put before a text of that kind; None: what the model wants where nothing is said."""
        if kind is None:
            return self.prompts.get(self.default_prompt or "", "")
        names = ("query",) if kind == "query" else ("document", "passage", "corpus")
        return next((self.prompts[name] for name in names if name in self.prompts), "")


def read_recipe(model_dir: Path) -> Recipe:
    """The recipe of a model directory; NotFoundError where it has none, UsageError where it is not done."""
    steps = _steps(model_dir)
    pooling = hub.read_json(model_dir / steps["Pooling"] / "config.json")
    if pooling.get("include_prompt") is False:
        raise UsageError(f"{model_dir.name} leaves its prompt out when it pools, which is not supported")
    config = hub.read_json(model_dir / "config.json")
    transformer = hub.read_json(model_dir / "sentence_bert_config.json")
    if config.get("is_encoder_decoder") or transformer.get("transformer_task") not in (None, "feature-extraction"):
        raise UsageError(f"{model_dir.name} is not an encoder of texts alone, which is not supported")
    texts = hub.read_json(model_dir / "config_sentence_transformers.json")
    dimension = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension"))
    if not isinstance(dimension, int) or not isinstance(config.get("vocab_size"), int):
        raise ArrieroError(f"{model_dir} does not say how long its vectors are or how large its vocabulary is")
    every = range(1, dimension + 1) if config.get("is_matryoshka") else ()
    return Recipe(
        pooling=_pooling(model_dir, pooling),
        normalize="Normalize" in steps,
        dimension=dimension,
        vocabulary=config["vocab_size"],
        window=transformer.get("max_seq_length"),
        positions=hub.window(model_dir),
        prompts=texts.get("prompts") or {},
        default_prompt=texts.get("default_prompt_name"),
        lowercase=transformer.get("do_lower_case") is True,
        shorter=tuple(config.get("matryoshka_dimensions") or ()) or every,
    )


def _steps(model_dir: Path) -> dict[str, str]:
    """The directories of the model's steps, by what they do, in order."""
    file = model_dir / "modules.json"
    if not file.is_file():
        raise NotFoundError(
            f"{model_dir.name} is not an embedding model of sentence-transformers: it has no modules.json",
            hint="arriero serve --embedding all-minilm-l6-v2",
        )
    try:
        listed: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        steps = {_step(str(step["type"])): str(step["path"]) for step in listed}
    except (ValueError, KeyError, TypeError) as error:
        raise ArrieroError(f"{file} is damaged: {error!r}", hint="download the model again") from error
    if list(steps) not in STEPS or len(listed) != len(steps) or steps["Transformer"]:
        raise UsageError(
            f"{model_dir.name} has the steps {', '.join(steps)}; done are Transformer, Pooling and perhaps Normalize",
            hint="choose another embedding model",
        )
    return steps


def _step(kind: str) -> str:
    """A step's name, which is that of a class; with its module where that is the repository's own, not to be run."""
    return kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind


def _pooling(model_dir: Path, config: dict[str, Any]) -> Pooling:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [FLAGS.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in get_args(Pooling):
        raise UsageError(
            f"{model_dir.name} pools by {' and '.join(map(str, modes)) or 'nothing'}; "
            f"done is one of {', '.join(get_args(Pooling))}",
            hint="choose another embedding model",
        )
    return cast(Pooling, modes[0])
