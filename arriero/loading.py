"""What `load` is asked for, taken apart: which model and adapter, which engine, and how that is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from arriero.engines import EngineOptions
from arriero.engines.registry import EngineKeywords, EngineName
from arriero.prompt import PromptSettings, ResolvedModel, resolve
from arriero.prompt.options import taken


class Loading(PromptSettings, EngineKeywords, total=False):
    """What may be given to `load` besides model and adapter."""

    engine: EngineName


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model that is on disk, and the engine that will have it; `options` have room for its adapter."""

    resolved: ResolvedModel
    engine: EngineName
    options: EngineOptions

    @classmethod
    def of(cls, model: str | Path | None, adapter: str | Path | None, settings: Mapping[str, Any]) -> Self:
        """From the arguments of `load`; `settings` are those of `Loading`. Raises as `resolve` does."""
        engine_options = dict(settings)
        prompting = taken(engine_options)
        engine = engine_options.pop("engine", "auto")
        options = EngineOptions(**engine_options)  # before anything is read, so that unknown keywords fail at once
        resolved = resolve(model, adapter, **prompting)
        if resolved.adapter_dir is not None:
            options = replace(options, room_for=[resolved.adapter_dir, *options.room_for])
        return cls(resolved, engine, options)
