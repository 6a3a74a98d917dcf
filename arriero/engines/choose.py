"""Which engine "auto" means on this machine, and why."""

from __future__ import annotations

import importlib.util
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arriero import hub
from arriero.engines.base import Engine, Precision
from arriero.errors import UsageError
from arriero.hardware import gpus

EngineName = Literal["auto", "transformers", "openvino"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine's name and the reason it was chosen, for people to read."""

    engine: Literal["transformers", "openvino"]
    reason: str


def choose(engine: EngineName = "auto", model_dir: Path | None = None) -> Choice:
    """Pick an engine, for a model if one is given. Raises UsageError when the one asked for is not installed."""
    if engine not in get_args(EngineName):
        raise UsageError(f"no engine is called {engine!r}; expected one of {', '.join(get_args(EngineName))}")
    has_openvino = importlib.util.find_spec("openvino_genai") is not None
    if engine == "openvino" and not has_openvino:
        raise UsageError("the openvino engine is not installed", hint='pip install "arriero[openvino]"')
    if engine != "auto":
        return Choice(engine, "asked for")
    if gpus():
        return Choice("transformers", f"a CUDA device is there, {gpus()[0]}")
    lacking = openvino_lacks(model_dir) if model_dir is not None else None
    if lacking is not None:
        return Choice("transformers", f"no GPU here, and OpenVINO does not do this model: {lacking}")
    if has_openvino and platform.machine().lower() in ("x86_64", "amd64", "arm64", "aarch64"):
        return Choice("openvino", "no GPU here, and it answers several times faster on a CPU")
    return Choice("transformers", "no GPU here and openvino-genai is not installed")


def load_engine(
    model_dir: Path,
    stop_token_ids: Sequence[int],
    adapters: Mapping[str, Path] | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
) -> Engine:
    """Load a model, with adapters by name if any are given, into the chosen engine. Announces the choice.

    Generation ends with any of `stop_token_ids`. `precision` is that of the weights; what "auto" means is the
    engine's own choice. Raises UnsupportedError for a precision that the engine does not do.
    """
    choice = choose(engine, model_dir)
    log.info("engine: %s (%s)", choice.engine, choice.reason)
    if choice.engine == "openvino":
        from arriero.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model_dir, stop_token_ids, adapters or {}, precision=precision)
    from arriero.engines.transformers import TransformersEngine

    return TransformersEngine(model_dir, stop_token_ids, adapters or {}, precision=precision)


def openvino_lacks(model_dir: Path) -> str | None:
    """What a model needs that the OpenVINO engine would get wrong, None when there is nothing.

    The exported attention mask is causal and nothing else, so a sliding window smaller than the context is refused.
    """
    config = hub.read_json(model_dir / "config.json")
    sliding = config.get("sliding_window") if config.get("use_sliding_window") is not False else None
    if isinstance(sliding, int) and sliding < hub.window(model_dir):
        return f"its attention slides over a window of {sliding} tokens"
    kinds = {kind for kind in config.get("layer_types") or () if kind != "full_attention"}
    return f"it has layers of the kind {', '.join(sorted(kinds))}" if kinds else None
