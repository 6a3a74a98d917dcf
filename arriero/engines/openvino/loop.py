"""A pipeline with a sampler of our own, for what OpenVINO GenAI's does not do.

That is presence and frequency penalties, logit_bias, alternatives of log-probabilities, and the log-probabilities of
prompts. As in the library, a step adds one id to every answer and reads a chunk of the prompts (chunked prefill):

    prompt ids ─> pending ─> PagedModel ─> logits ─┬─> of prompt ids: log-probabilities, where they are wanted
                     ^                             └─> of the last id: Sampler ─> token ─┐
                     └───────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arriero.engines.openvino.paged import Cached, PagedModel, Part
from arriero.engines.openvino.pipeline import Model, Pipeline, Request
from arriero.engines.openvino.sampler import Sampler, logprobs
from arriero.engines.process.crossing import sampling_of
from arriero.errors import UsageError
from arriero.messages import FinishReason

if TYPE_CHECKING:
    from arriero.engines.llguidance import Grammars

MAX_RUNNING = 64  # at once; more wait their turn


@dataclass(frozen=True, slots=True)
class Config:
    """What is asked for besides ids: fields of a complete Sampling, and the rest as `Engine.submit` has it."""

    sampling: Mapping[str, Any]
    max_new_tokens: int
    logprobs: int | None
    prompt_logprobs: bool


@dataclass(eq=False, slots=True)
class Answering:
    """One request: its sampler, its place in the KV cache, and the ids that are not there yet."""

    request: Request
    config: Config
    sampler: Sampler
    pending: list[int]
    cached: Cached = field(default_factory=Cached)
    generated: int = 0

    @property
    def scores(self) -> bool:
        """Whether log-probabilities of the prompt are wanted, and not there yet."""
        return self.config.prompt_logprobs and not self.generated


class Loop(Pipeline):
    """See the file's beginning."""

    _pipeline: PagedModel | None
    _running: dict[int, Answering]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._together = self._together or MAX_RUNNING
        self._source = Path()
        self._step_tokens = 0
        self._grammars: Grammars | None = None

    def build(self, model: Model) -> PagedModel:
        """See `Pipeline.build`."""
        self._source, self._step_tokens = model.source, model.step_tokens
        return model.paged(self.adapter)

    def _begin(self, request: Request) -> Answering:
        if not request.ids:
            raise UsageError("the prompt has no tokens", hint="begin it with the token that begins every text")
        config = Config(**request.config)
        sampling = sampling_of(config.sampling)
        grammar = None if request.grammar is None else self._read(request.grammar, request.stop_token_ids)
        return Answering(request, config, Sampler(request.ids, sampling, grammar), list(request.ids))

    def _compute(self) -> None:
        model, parts = self._pipeline, self._parts()
        if model is None or not parts:
            return
        for (answering, part), logits in zip(parts, model.forward([part for _, part in parts]), strict=True):
            try:
                self._advance(answering, part, logits)
            except Exception as error:
                self._end(answering)
                self._fail(answering.request.number, error)

    def _drop(self, running: Answering) -> None:
        if self._pipeline is not None:
            self._pipeline.free(running.cached)

    def _parts(self) -> list[tuple[Answering, Part]]:
        """What the next call adds: one id to all answers, then as much of the prompts as fits."""
        parts, room = [], self._step_tokens
        for answering in sorted(self._running.values(), key=lambda answering: not answering.generated):
            count = len(answering.pending) if answering.generated else min(len(answering.pending), room)
            if count > 0:
                parts.append((answering, Part(answering.cached, answering.pending[:count], answering.scores)))
                room -= count
        return parts

    def _advance(self, answering: Answering, part: Part, logits: NDArray[np.float32]) -> None:
        """Take what a call brought: the logits after each id, or after the last: (ids or 1, vocabulary)."""
        request, config = answering.request, answering.config
        del answering.pending[: len(part.ids)]
        if part.every:
            end = part.cached.length
            targets = request.ids[end - len(part.ids) + 1 : end + 1]  # the ids that follow; none after the last
            if targets:
                scores = logprobs(logits[: len(targets)], targets, config.logprobs or 0)
                self._say(("prompt", request.number, targets, *scores))
        if answering.pending:
            return
        if not config.max_new_tokens:
            self._finish(answering, "length")
            return
        token = answering.sampler.sample(logits[-1])
        answering.generated += 1
        found = () if config.logprobs is None else logprobs(logits[-1:], [token], config.logprobs)
        self._say(("ids", request.number, [token], *found))
        if token in request.stop_token_ids:
            self._finish(answering, "stop")
        elif answering.generated == config.max_new_tokens:
            self._finish(answering, "length")
        else:
            answering.sampler.accept(token)
            answering.pending.append(token)

    def _finish(self, answering: Answering, reason: FinishReason) -> None:
        self._end(answering)
        self._say(("end", answering.request.number, reason))

    def _end(self, answering: Answering) -> None:
        del self._running[answering.request.number]
        self._drop(answering)

    def _read(self, grammar: str, stop_token_ids: Sequence[int]) -> Any:
        """A grammar at its beginning; the first loads the tokenizer, about half a second."""
        if self._grammars is None:
            from arriero.engines.llguidance import Grammars

            self._grammars = Grammars(self._source, stop_token_ids)
        return self._grammars.read(grammar)
