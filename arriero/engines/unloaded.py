"""What an engine will refuse of a request is refused before it is loaded, by one that computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from arriero.constraint import Constraint
from arriero.engines.base import Adapter, Engine, Feature, needed_features, require
from arriero.engines.generation import Generation
from arriero.engines.registry import EngineName, EngineOptions, Entry
from arriero.engines.select import select_engine
from arriero.errors import ArrieroError
from arriero.messages import Sampling


def rehearsed(
    request: Callable[[Engine], object], engine: EngineName, model_dir: Path, options: EngineOptions
) -> EngineOptions:
    """`options` for an engine that `request` can be asked of; it is called with one that computes nothing.

    Where "auto" would select an engine that refuses it, such as for a schema that OpenVINO cannot guarantee, it
    selects another one that does not, if there is one. Raises what `request` does, and as `select_engine`.
    """
    entry = select_engine(engine, model_dir, options).entry
    try:
        return _needing(request, entry, options)
    except ArrieroError as error:
        refused = replace(options, refused={entry.name: error.message})
        try:
            other = select_engine(engine, model_dir, refused).entry
            return _needing(request, other, refused)
        except ArrieroError:
            raise error from None


def _needing(request: Callable[[Engine], object], entry: Entry, options: EngineOptions) -> EngineOptions:
    unloaded = UnloadedEngine(entry)
    request(unloaded)
    return replace(options, needs=tuple(unloaded.needed))


class UnloadedEngine:
    """Implements `engines.base.Engine`. `needed` are the features that requests have asked for.

    Whether a model's tokenizer can spell for grammars turns out when the engine is loaded, so `needed` is for
    `EngineOptions.needs`.
    """

    alive = True
    in_4bit = False

    def __init__(self, entry: Entry) -> None:
        self.name = entry.name
        self.description = f"{entry.name}, not loaded"
        self.features: frozenset[Feature] = frozenset(get_args(Feature)) - set(entry.undone)
        self.needed: set[Feature] = set()
        self._check_constraint = entry.check_constraint

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        adapter: Adapter | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> Generation:
        """A generation that was cancelled. Raises what the loaded engine's `submit` would."""
        require(self, sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs)
        self.needed.update(needed_features(sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs))
        if constraint is not None:
            self._check_constraint(constraint, sampling, logprobs)
        generation = Generation(len(prompt_ids))
        generation.finish("cancelled")
        return generation

    def load_adapter(self, directory: Path) -> Adapter:
        """A handle without weights; `select_engine` has seen whether the engine can do the adapter."""
        return Adapter(directory)

    def close(self) -> None:
        """See `Engine.close`."""
