"""What every engine promises.

An engine owns one loaded model and a thread that drives it. `submit` returns at once with a Generation, which the
engine's thread fills.

Adapters have no names here: `load_adapter` gives a handle, and whoever holds it computes with exactly those weights.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from arriero.constraint import Constraint, Reasoned
from arriero.engines.generation import Generation
from arriero.engines.registry import Feature as Feature
from arriero.engines.registry import Precision as Precision
from arriero.errors import UnsupportedError, UsageError
from arriero.messages import Sampling


class Adapter:
    """An adapter that an engine has loaded: a handle to give to `submit`, and nothing else can be done with it.

    The weights stay loaded for as long as anybody holds the handle, a Chat or a request in flight; the engine frees
    them when the last holder has let go. `directory` is where they came from.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory


class Engine(Protocol):
    """A loaded model, and any number of adapters.

    `name` is what --engine calls it, `description` adds device and precision for people, `features` are the optional
    ones it has. `in_4bit`: the base's weights were brought to 4 bits as training's load_in_4bit brings them.
    """

    name: str
    description: str
    features: frozenset[Feature]
    in_4bit: bool

    @property
    def alive(self) -> bool:
        """Whether it can answer, now or after what it starts again by itself; False for good."""
        ...

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
        """Start generating at most `max_new_tokens` ids after `prompt_ids`; returns at once.

        `sampling` is complete: no field but `seed` is None. Stop strings are not the engine's business. `adapter` is
        one that this engine has loaded, None for the base model. With a `constraint` the ids spell what it allows and
        the end of the turn. `logprobs` asks for log-probabilities, with that many alternatives for each token, and
        `prompt_logprobs` for those of the prompt's tokens too, with as many; only then may `max_new_tokens` be 0.
        Raises UnsupportedError for a feature that this engine lacks and UsageError for the adapter of another engine.
        Where what computes dies, the generation fails with EngineLostError.
        """
        ...

    def load_adapter(self, directory: Path) -> Adapter:
        """Load an adapter; requests in flight go on.

        Raises EngineError where the engine cannot do such an adapter, ArrieroError where it does not fit the model.
        """
        ...

    def close(self) -> None:
        """Cancel what runs, stop the thread and free the model."""
        ...


def check_own(adapter: Adapter | None, own: Container[Adapter]) -> None:
    """Raise UsageError for an adapter that is not among an engine's `own`: its weights belong to another model."""
    if adapter is not None and adapter not in own:
        raise UsageError(
            f"the adapter {adapter.directory} was loaded by another engine", hint="load it with this one's load_adapter"
        )


def check_ids(prompt_ids: Sequence[int], sampling: Sampling, vocabulary: int) -> None:
    """Raise UsageError for an empty prompt, and for token ids that a model with a `vocabulary` of that size lacks.

    One id out of range would fail every request of its batch, and on a GPU the whole process.
    """
    for what, ids in (("logit_bias", [token for token, _ in sampling.logit_bias]), ("the prompt", prompt_ids)):
        for token in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token < vocabulary:
                last = vocabulary - 1
                raise UsageError(f"{what} has the token id {token}, but the model's ids go from 0 to {last}")
    if not prompt_ids:
        raise UsageError("the prompt has no tokens", hint="begin it with the token that begins every text")


def require(
    engine: Engine,
    sampling: Sampling,
    constraint: Constraint | None,
    logprobs: int | None,
    *,
    prompt_logprobs: bool = False,
) -> None:
    """Raise UnsupportedError for a feature that a request needs and `engine` lacks."""
    check_features(engine, needed_features(sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs))


def check_features(engine: Engine, needed: Iterable[Feature]) -> None:
    """Raise UnsupportedError for the first of these features that `engine` lacks."""
    for feature in needed:
        if feature not in engine.features:
            raise UnsupportedError(feature, engine.name)


def needed_features(
    sampling: Sampling, constraint: Constraint | None, logprobs: int | None, *, prompt_logprobs: bool = False
) -> list[Feature]:
    """The optional features that a request needs."""
    needed: dict[Feature, bool] = {
        "min_p": bool(sampling.min_p),
        "presence_penalty": bool(sampling.presence_penalty),
        "frequency_penalty": bool(sampling.frequency_penalty),
        "logit_bias": bool(sampling.logit_bias),
        "logprobs": logprobs is not None,
        "top_logprobs": bool(logprobs),
        "constraint": constraint is not None and not isinstance(constraint, Reasoned),
        "constraint_after_reasoning": isinstance(constraint, Reasoned),
        "prompt_logprobs": prompt_logprobs,
    }
    return [feature for feature, is_needed in needed.items() if is_needed]
