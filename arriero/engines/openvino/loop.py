"""A pipeline with a sampler of our own, for what OpenVINO GenAI's does not do.

That is presence and frequency penalties, logit_bias, alternatives of log-probabilities, and the log-probabilities of
prompts. As in the library, a step decodes one id of every answer and prefills a chunk of the prompts (chunked prefill):

    prompt ids ─> pending ─> PagedModel ─> logits ─┬─> of prompt ids: log-probabilities, where they are asked for
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

from arriero.engines.openvino.paged import BlockTable, Chunk, PagedModel
from arriero.engines.openvino.pipeline import Model, Pipeline, Request
from arriero.engines.openvino.sampler import Sampler, logprobs
from arriero.engines.process.crossing import sampling_of
from arriero.errors import UsageError
from arriero.messages import FinishReason

if TYPE_CHECKING:
    from arriero.engines.llguidance import Grammars

MAX_RUNNING = 64  # requests in flight; more wait for their turn


@dataclass(frozen=True, slots=True)
class Config:
    """What is asked for besides ids: fields of a complete Sampling, and the rest as `Engine.submit` has it."""

    sampling: Mapping[str, Any]
    max_new_tokens: int
    logprobs: int | None
    prompt_logprobs: bool


@dataclass(eq=False, slots=True)
class SequenceState:
    """One request's sequence: its sampler, its blocks of the KV cache, and the ids that are not there yet.

    `pending` is the rest of the prompt during prefill, and the one id that was sampled last while it decodes.
    """

    request: Request
    config: Config
    sampler: Sampler
    pending: list[int]
    table: BlockTable = field(default_factory=BlockTable)
    generated: int = 0

    @property
    def scores(self) -> bool:
        """Whether log-probabilities of the prompt are asked for, and not there yet."""
        return self.config.prompt_logprobs and not self.generated


class DecodeLoop(Pipeline):
    """See the file's beginning."""

    _pipeline: PagedModel | None
    _running: dict[int, SequenceState]

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

    def _begin(self, request: Request) -> SequenceState:
        if not request.ids:
            raise UsageError("the prompt has no tokens", hint="begin it with the token that begins every text")
        config = Config(**request.config)
        sampling = sampling_of(config.sampling)
        grammar = None if request.grammar is None else self._grammar(request.grammar, request.stop_token_ids)
        return SequenceState(request, config, Sampler(request.ids, sampling, grammar), list(request.ids))

    def _compute(self) -> None:
        model, chunks = self._pipeline, self._chunks()
        if model is None or not chunks:
            return
        for (sequence, chunk), logits in zip(chunks, model.forward([chunk for _, chunk in chunks]), strict=True):
            try:
                self._advance(sequence, chunk, logits)
            except Exception as error:  # one request's sampling or grammar; the others have their logits
                self._end(sequence)
                self._fail(sequence.request.number, error)

    def _drop(self, running: SequenceState) -> None:
        if self._pipeline is not None:
            self._pipeline.free(running.table)

    def _chunks(self) -> list[tuple[SequenceState, Chunk]]:
        """What the next call adds: one id to all answers, then as much of the prompts as fits."""
        chunks, room = [], self._step_tokens
        # answers first: no prompt, however long, keeps them waiting for more than one step
        for sequence in sorted(self._running.values(), key=lambda sequence: not sequence.generated):
            count = len(sequence.pending) if sequence.generated else min(len(sequence.pending), room)
            if count > 0:  # else the step is full, and this prompt waits for the next
                chunks.append((sequence, Chunk(sequence.table, sequence.pending[:count], sequence.scores)))
                room -= count
        return chunks

    def _advance(self, sequence: SequenceState, chunk: Chunk, logits: NDArray[np.float32]) -> None:
        """Take what a call brought: the logits after each id, or after the last: (ids or 1, vocabulary)."""
        request, config = sequence.request, sequence.config
        del sequence.pending[: len(chunk.ids)]
        if chunk.all_logits:
            end = chunk.table.length
            # the logits after id i are those of id i + 1: none for the first id, and the last ones are the answer's
            targets = request.ids[end - len(chunk.ids) + 1 : end + 1]
            if targets:
                scores = logprobs(logits[: len(targets)], targets, config.logprobs or 0)
                self._say(("prompt", request.number, targets, *scores))
        if sequence.pending:  # prefill goes on; these logits are of the middle of the prompt
            return
        if not config.max_new_tokens:
            self._finish(sequence, "length")
            return
        token = sequence.sampler.sample(logits[-1])  # (vocabulary,) after the last id that is cached
        sequence.generated += 1
        scored = () if config.logprobs is None else logprobs(logits[-1:], [token], config.logprobs)
        self._say(("ids", request.number, [token], *scored))
        if token in request.stop_token_ids:
            self._finish(sequence, "stop")
        elif sequence.generated == config.max_new_tokens:
            self._finish(sequence, "length")
        else:
            sequence.sampler.accept(token)
            sequence.pending.append(token)

    def _finish(self, sequence: SequenceState, reason: FinishReason) -> None:
        self._end(sequence)
        self._say(("end", sequence.request.number, reason))

    def _end(self, sequence: SequenceState) -> None:
        del self._running[sequence.request.number]
        self._drop(sequence)

    def _grammar(self, text: str, stop_token_ids: Sequence[int]) -> Any:
        """A grammar at its beginning; the first loads the tokenizer, about half a second."""
        if self._grammars is None:
            from arriero.engines.llguidance import Grammars

            self._grammars = Grammars(self._source, stop_token_ids)
        return self._grammars.read(text)
