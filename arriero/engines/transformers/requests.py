"""One request on its way through the engine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from arriero.engines.base import Adapter
from arriero.engines.generation import Generation
from arriero.engines.llguidance import Grammars
from arriero.engines.transformers.sampler import SampledToken, Sampler
from arriero.messages import FinishReason, Sampling


@dataclass(eq=False, slots=True)
class Request:
    """What was asked for, and the ids so far.

    `adapter` is the name that PEFT knows, and `holds` its handle, which keeps it loaded. `limit` is the most new ids.
    `grammar` is what `grammar.lark` made. With `scores` the prompt gets log-probabilities, too.
    """

    generation: Generation
    prompt_ids: list[int]
    sampling: Sampling
    limit: int
    adapter: str | None = None
    holds: Adapter | None = None
    grammar: str | None = None
    alternatives: int | None = None
    scores: bool = False
    answer_ids: list[int] = field(default_factory=list)
    ended: bool = False
    sampler: Sampler = field(init=False)

    def prepare(self, grammars: Grammars) -> None:
        """Make ready to sample tokens; on the engine's thread, since a first grammar takes half a second."""
        grammar = grammars.read(self.grammar) if self.grammar is not None else None
        self.sampler = Sampler(self.prompt_ids, self.sampling, grammar, self.alternatives)

    @property
    def ids(self) -> list[int]:
        """Prompt and answer so far."""
        return self.prompt_ids + self.answer_ids

    @property
    def length(self) -> int:
        """Their number."""
        return len(self.prompt_ids) + len(self.answer_ids)

    @property
    def longest(self) -> int:
        """The most tokens that prompt and answer can come to."""
        return len(self.prompt_ids) + self.limit

    @property
    def newest(self) -> int:
        """The id that goes into the model next: it is in no cache yet."""
        return self.answer_ids[-1]

    def accept(self, sampled: SampledToken, stop_token_ids: Collection[int]) -> None:
        """Hand a token to the reader, and end the answer where it is complete."""
        token, logprob = sampled
        self.answer_ids.append(token)
        self.generation.push([token], [logprob] if logprob is not None else ())
        if token in stop_token_ids:
            self.finish("stop")
        elif len(self.answer_ids) >= self.limit:
            self.finish("length")
        else:
            self.sampler.accept(token)

    def finish(self, reason: FinishReason) -> None:
        """The answer is complete, or as much of it as there will be."""
        self.ended = True
        self.generation.finish(reason)

    def fail(self, error: Exception) -> None:
        """The reader gets this error, without the tensors that its traceback holds on to."""
        self.ended = True
        self.generation.fail(error.with_traceback(None))
