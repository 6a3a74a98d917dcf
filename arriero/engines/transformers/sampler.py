"""Logits -> token ids for a whole batch, each request by its own parameters.

For each request, in the order of transformers' `generate`:

    logits ─> logit_bias ─> repetition_penalty ─> presence and frequency penalty ─> grammar ─┬─> temperature 0: argmax
      │                                   temperature ─> top_k ─> top_p ─> min_p ─> sample <─┘
      └─> log-probabilities, which are the model's own

All requests go through it together, see processors.py, and the host waits for the device once a step, for what comes
out at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from arriero.engines.llguidance import Grammar
from arriero.engines.transformers.processors import Bias, Filters, GrammarMask, Penalties, Rows
from arriero.errors import ArrieroError, EngineError
from arriero.messages import Sampling, TokenLogprob

GREEDY_BELOW = 1e-5  # dividing by less than this overflows, and leaves the most probable token anyhow
CANDIDATES = 1024  # among which top_p looks first: of 49,152 ids a topk takes an eighth of the time of a sort
NO_NUMBERS = "use --precision float32; if that does not help, verify the weights: arriero models verify"
SampledToken = tuple[int, TokenLogprob | None]


class Sampler:
    """How one request samples its tokens, and what of its past that depends on.

    `alternatives` is how many log-probabilities are wanted beside the token's, None where not even that is. `past` is
    kept by `processors.Penalties`.
    """

    def __init__(
        self, prompt_ids: Sequence[int], sampling: Sampling, grammar: Grammar | None, alternatives: int | None
    ) -> None:
        self.prompt_ids = prompt_ids
        self.sampling = sampling
        self.grammar = grammar
        self.alternatives = alternatives
        self.greedy = sampling.temperature is None or sampling.temperature < GREEDY_BELOW
        self.past: tuple[torch.Tensor, torch.Tensor] | None = None
        self._generator = torch.Generator()  # on the CPU: the same seed draws the same numbers whatever computes
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def penalises(self) -> bool:
        """Whether its scores depend on the tokens so far."""
        sampling = self.sampling
        repeated = sampling.repetition_penalty not in (None, 1)
        return repeated or bool(sampling.presence_penalty or sampling.frequency_penalty)

    def draw(self) -> float:
        """The request's next random number, from 0 up to but not 1."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def accept(self, token: int) -> None:
        """Take note of a token that was sampled; it does not end the turn."""
        if self.grammar is not None:
            self.grammar.accept(token)


class BatchSampler:
    """Samples for one batch.

    What it keeps on the device is made anew when other requests are in it, or in other rows, and when an adapter has
    brought more tokens.

    Where one request's `candidates` do not hold its nucleus, a step is sampled once more among all ids.
    """

    def __init__(self, candidates: int = CANDIDATES) -> None:
        self._samplers: list[Sampler] = []
        self._vocabulary = 0
        self._candidates = candidates

    def sample(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[SampledToken | ArrieroError]:
        """The next token of each request, or what went wrong with it alone.

        `logits` is (requests, vocabulary), float32, and is not changed.
        """
        if self._samplers != list(samplers) or self._vocabulary != logits.shape[1]:
            self._prepare(list(samplers), logits)
        failed: dict[int, ArrieroError] = {}
        scores = self._process(logits, failed)  # (requests, vocabulary)
        numbers = self._sampled.column([self._samplers[row].draw() for row in self._sampled.numbers], torch.float64)
        tokens = self._next(scores, numbers, self._candidates)
        enough, *values = self._copy(logits, tokens)
        if not enough:  # rare; by the same random numbers, so that no request draws twice for one token
            tokens = self._next(scores, numbers, logits.shape[1])
            _, *values = self._copy(logits, tokens)
        if self._penalties is not None:
            self._penalties.count(tokens)
        return self._results(values, failed)

    def _prepare(self, samplers: list[Sampler], logits: torch.Tensor) -> None:
        count, vocabulary = logits.shape
        biased = any(sampler.sampling.logit_bias for sampler in samplers)
        penalised, constrained, sampled, scored = (
            Rows([row for row, asks in enumerate(each) if asks], count, logits.device)
            for each in (
                [sampler.penalises for sampler in samplers],
                [sampler.grammar is not None for sampler in samplers],
                [not sampler.greedy for sampler in samplers],
                [sampler.alternatives is not None for sampler in samplers],
            )
        )
        self._bias = Bias(samplers, logits.device) if biased else None
        self._penalties = Penalties(samplers, penalised, vocabulary) if len(penalised) else None
        self._mask = GrammarMask(samplers, constrained) if len(constrained) else None
        self._filters = Filters(samplers, sampled, vocabulary) if len(sampled) else None
        self._sampled, self._scored = sampled, scored
        # one topk serves all: each takes as many of these as it asked for
        self._top = min(max((sampler.alternatives or 0 for sampler in samplers), default=0), vocabulary)
        self._samplers, self._vocabulary = samplers, vocabulary

    def _process(self, scores: torch.Tensor, failed: dict[int, ArrieroError]) -> torch.Tensor:
        """Bias, penalties and grammar: (requests, vocabulary)."""
        if self._bias is not None:
            scores = self._bias(scores)
        if self._penalties is not None:
            scores = self._penalties(scores)
        if self._mask is not None:
            scores = self._mask(scores, failed)
        return scores

    def _next(self, scores: torch.Tensor, numbers: torch.Tensor, candidates: int) -> torch.Tensor:
        """The next token of each request, -1 where there is none: (requests,).

        `numbers` are the random ones of the rows that sample, (rows, 1).
        """
        if self._filters is None:
            return _argmax(scores)
        sampled = _sample(self._filters(self._sampled.of(scores), candidates), numbers)
        return sampled if len(sampled) == len(scores) else self._sampled.put(_argmax(scores), sampled)

    def _copy(self, logits: torch.Tensor, tokens: torch.Tensor) -> list[float]:
        """On the host, in one copy: whether the candidates were enough, tokens, log-probabilities.

        float64 holds all of them exactly.
        """
        enough = self._filters.enough if self._filters is not None else tokens.new_ones(())
        parts = [enough.double()[None], tokens.double()]
        if len(self._scored):
            parts += [tensor.double().flatten() for tensor in self._logprobs(logits, tokens)]
        values: list[float] = torch.cat(parts).tolist()
        return values

    def _results(self, values: list[float], failed: dict[int, ArrieroError]) -> list[SampledToken | ArrieroError]:
        """What the host got, by request."""
        logprobs = self._read_logprobs(values)
        tokens = list(map(int, values[: len(self._samplers)]))
        for row, token in enumerate(tokens):
            if token < 0:  # -1 is what `_argmax` and `_sample` give where a logit is NaN, or none is finite
                error = EngineError("the model computed logits that are no finite numbers", hint=NO_NUMBERS)
                failed.setdefault(row, error)
        return [failed.get(row) or (token, logprobs.get(row)) for row, token in enumerate(tokens)]

    def _logprobs(self, logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the rows that want them: the token's, (rows, 1), and the most probable ones and their ids."""
        values = self._scored.of(logits).log_softmax(dim=-1)
        best, ids = values.topk(self._top)
        return values.gather(1, self._scored.of(tokens).clamp(min=0)[:, None]), best, ids

    def _read_logprobs(self, values: list[float]) -> dict[int, TokenLogprob]:
        """What `_logprobs` gave, by row, from what was copied for n requests, m of which ask for it.

        tokens (n) | log-probabilities of m of them | most probable ones (m x top) | ids of those (m x top)
        """
        rows, top = self._scored.numbers, self._top
        chosen, rest = values[len(self._samplers) :][: len(rows)], values[len(self._samplers) + len(rows) :]
        best, ids = rest[: len(rows) * top], rest[len(rows) * top :]
        by_row = {}
        for at, row in enumerate(rows):
            own = slice(at * top, at * top + (self._samplers[row].alternatives or 0))  # of the `top` that all have
            alternatives = zip(map(int, ids[own]), best[own], strict=True)
            by_row[row] = TokenLogprob(int(values[row]), chosen[at], tuple(alternatives))
        return by_row


def _sample(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A random token of each row of (rows, vocabulary), -1 where its probabilities are no numbers: (rows,).

    A row's token is the first at which the summed probabilities exceed that request's random number, (rows, 1), so
    what one request draws does not depend on the others.
    """
    summed = probabilities.double().cumsum(dim=-1)  # float32 would lose the rare tokens' share
    total = summed[:, -1:]
    tokens = torch.searchsorted(summed, numbers * total, right=True)
    return torch.where(total > 0, tokens, -1)[:, 0]


def _argmax(scores: torch.Tensor) -> torch.Tensor:
    """The most probable token of each row, -1 where there is none: (rows,)."""
    best, tokens = scores.max(dim=-1)
    return torch.where(best.isfinite(), tokens, -1)


def logprobs(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> list[TokenLogprob]:
    """Log-probabilities of `tokens`, one for each row of logits (tokens, vocabulary), and of the most probable ones."""
    if not tokens:
        return []
    values = logits.log_softmax(dim=-1)
    chosen = values.gather(1, torch.tensor(tokens, device=values.device)[:, None])[:, 0].tolist()
    best, ids = (tensor.tolist() for tensor in values.topk(min(alternatives, values.shape[-1])))
    return [
        TokenLogprob(token, chosen[at], tuple(zip(ids[at], best[at], strict=True))) for at, token in enumerate(tokens)
    ]
