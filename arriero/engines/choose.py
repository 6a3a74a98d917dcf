"""Which engine "auto" means on this machine, and why."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from arriero import hub
from arriero.engines.adapters import adapter_lacks
from arriero.engines.base import Engine, Precision
from arriero.errors import EngineError, UsageError
from arriero.hardware import gpus

RealEngine = Literal["vllm", "openvino", "transformers"]
EngineName = Literal["auto", "transformers", "openvino", "vllm"]
PACKAGES: Mapping[RealEngine, tuple[str, ...]] = {
    "vllm": ("vllm",),
    "openvino": ("openvino", "openvino_genai", "openvino_tokenizers", "nncf"),
    "transformers": ("torch", "transformers"),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine's name and the reason it was chosen, for people to read."""

    engine: RealEngine
    reason: str


def choose(
    engine: EngineName = "auto", model_dir: Path | None = None, adapters: Mapping[str, Path] | None = None
) -> Choice:
    """Pick an engine, for a model and its adapters if any are given.

    Raises UsageError where the engine asked for is unknown or not installed, EngineError where it would get the model
    or an adapter wrong.
    """
    if engine not in get_args(EngineName):
        raise UsageError(f"no engine is called {engine!r}; expected one of {', '.join(get_args(EngineName))}")
    found = list((adapters or {}).values())
    if engine != "auto":
        if missing := _missing(engine):
            raise UsageError(f"the {engine} engine is not installed: {missing}", hint=_install(engine))
        if (reason := lacks(engine, model_dir, found)) is not None:
            raise EngineError(f"the {engine} engine does not do this: {reason}", hint="use --engine transformers")
        return Choice(engine, "asked for")
    quick: RealEngine = "vllm" if gpus() else "openvino"
    where = f"a CUDA device is there, {gpus()[0]}" if gpus() else "no GPU here"
    merit = "answers many requests at once" if gpus() else "answers several times faster on a CPU"
    if missing := _missing(quick):
        return Choice("transformers", f"{where}; {quick} {merit}, but {missing}: {_install(quick)}")
    if (reason := lacks(quick, model_dir, found)) is not None:
        return Choice("transformers", f"{where}, and {quick} does not do this: {reason}")
    return Choice(quick, f"{where}, and {quick} {merit}")


def usable() -> dict[RealEngine, str | None]:
    """Every engine, with what keeps it from being used on this machine and what to install; None: nothing does."""
    found = {engine: _missing(engine) for engine in PACKAGES}
    return {engine: f"{missing}: {_install(engine)}" if missing else None for engine, missing in found.items()}


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
    adapters = adapters or {}
    choice = choose(engine, model_dir, adapters)
    log.info("engine: %s (%s)", choice.engine, choice.reason)
    if choice.engine == "openvino":
        from arriero.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(model_dir, stop_token_ids, adapters, precision=precision)
    if choice.engine == "vllm":
        from arriero.engines.vllm import VLLMEngine

        return VLLMEngine(model_dir, stop_token_ids, adapters, precision=precision)
    from arriero.engines.transformers import TransformersEngine

    return TransformersEngine(model_dir, stop_token_ids, adapters, precision=precision)


def lacks(engine: RealEngine, model_dir: Path | None, adapters: Sequence[Path] = ()) -> str | None:
    """What a model or its adapters need that `engine` would get wrong; None when there is nothing."""
    reason = openvino_lacks(model_dir) if engine == "openvino" and model_dir is not None else None
    reasons = [reason, *(adapter_lacks(engine, adapter) for adapter in adapters)]
    return next((reason for reason in reasons if reason is not None), None)


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


def _missing(engine: RealEngine) -> str:
    """The packages of an engine that are not installed, as a clause; empty where all are."""
    absent = [package for package in PACKAGES[engine] if importlib.util.find_spec(package) is None]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" if absent else ""


def _install(engine: RealEngine) -> str:
    alone = ", in an environment of its own" if engine == "vllm" else ""
    return f'pip install "arriero[{engine}]"{alone}'
