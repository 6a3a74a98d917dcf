"""Logits -> token ids, each request by its own rules.

For each request, in the order of transformers' `generate`:

    logits ─> logit_bias ─> repetition_penalty ─> presence and frequency penalty ─> grammar ─┬─> temperature 0: argmax
      │                                     temperature ─> top_k ─> top_p ─> min_p ─> draw <─┘
      └─> log-probabilities

Everything that transformers has a LogitsProcessor for is done by that. The repetition penalty counts prompt and
answer, presence and frequency the answer only, as OpenAI's API defines them
(https://platform.openai.com/docs/api-reference/completions). Log-probabilities are those of the model itself, before
anything in this file has touched them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.logits_process import SequenceBiasLogitsProcessor

from arriero.engines.grammar import Grammar
from arriero.errors import ArrieroError, EngineError
from arriero.messages import Sampling, TokenLogprob

GREEDY_BELOW = 1e-5  # dividing by less than this overflows, and leaves the most probable token anyhow
Warping = tuple[float, int, float, float]  # temperature, top_k, top_p, min_p
Pick = tuple[int, TokenLogprob | None]


class Chooser:
    """How one request chooses its tokens, and what of its past that depends on."""

    def __init__(
        self, prompt_ids: Sequence[int], sampling: Sampling, grammar: Grammar | None, alternatives: int | None
    ) -> None:
        self.alternatives = alternatives
        self.warping = _warping(sampling)
        self._grammar = grammar
        self._answer = _AnswerPenalty(sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0)
        self._processors = LogitsProcessorList()
        if sampling.logit_bias:
            bias = {(token,): float(bias) for token, bias in sampling.logit_bias}
            self._processors.append(SequenceBiasLogitsProcessor(bias))
        penalty = sampling.repetition_penalty
        if penalty is not None and penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
        if self._answer.wanted:
            self._processors.append(self._answer)
        self.shapes = bool(self._processors) or grammar is not None
        self._ids = torch.tensor([list(prompt_ids)]) if self._processors else None
        self._generator = torch.Generator()  # on the CPU: the same seed draws the same numbers whatever computes
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def shape(self, scores: torch.Tensor) -> torch.Tensor:
        """Bias, penalties and grammar applied to one row of logits: (1, ids)."""
        if self._ids is not None:
            self._ids = self._ids.to(scores.device)
            scores = self._processors(self._ids, scores)
        if self._grammar is not None:
            allowed = torch.zeros(scores.shape[-1], dtype=torch.bool)  # ids that the tokenizer does not have stay out
            known = torch.from_numpy(self._grammar.allowed())[: len(allowed)]
            allowed[: len(known)] = known
            scores = scores.masked_fill(~allowed.to(scores.device), -torch.inf)
        return scores

    def draw(self) -> float:
        """The request's next random number, from 0 up to but not 1."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def accept(self, token: int) -> None:
        """Take note of a token that was chosen; it does not end the turn."""
        if self._ids is not None:
            self._ids = torch.cat([self._ids, self._ids.new_tensor([[token]])], dim=1)
            self._answer.count(token)
        if self._grammar is not None:
            self._grammar.accept(token)


class _AnswerPenalty(LogitsProcessor):
    """Presence and frequency penalty: subtracted once from every token the answer holds, and once for each time."""

    def __init__(self, presence: float, frequency: float) -> None:
        self.wanted = bool(presence or frequency)
        self._presence = presence
        self._frequency = frequency
        self._counts: dict[int, int] = {}

    def count(self, token: int) -> None:
        self._counts[token] = self._counts.get(token, 0) + 1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` is (1, ids)."""
        tokens = torch.tensor(list(self._counts), dtype=torch.long, device=scores.device)
        counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(1, tokens, -(self._presence + self._frequency * counts)[None])


def choose(logits: torch.Tensor, choosers: Sequence[Chooser]) -> list[Pick | ArrieroError]:
    """The next token of each request, or what went wrong with it alone.

    `logits` is (requests, ids), float32, and is not changed.
    """
    scores, failed = _shaped(logits, choosers)
    order = sorted(range(len(choosers)), key=lambda row: choosers[row].warping or ())
    tokens = [0] * len(choosers)
    for warping, group in groupby(order, key=lambda row: choosers[row].warping):
        rows = list(group)
        chosen = scores if len(rows) == len(choosers) else scores[rows]
        found = _likeliest(chosen) if warping is None else _drawn(chosen, warping, [choosers[row] for row in rows])
        for row, token in zip(rows, found.tolist(), strict=True):
            tokens[row] = token
    logprobs = _logprobs(logits, tokens, [chooser.alternatives for chooser in choosers])
    for row, token in enumerate(tokens):
        if token < 0:
            failed.setdefault(row, EngineError("the model computed logits that are no finite numbers", hint=NO_NUMBERS))
    return [failed.get(row) or (token, logprobs.get(row)) for row, token in enumerate(tokens)]


NO_NUMBERS = "use --precision float32; if that does not help, verify the weights: arriero models verify"


def _shaped(logits: torch.Tensor, choosers: Sequence[Chooser]) -> tuple[torch.Tensor, dict[int, ArrieroError]]:
    failed: dict[int, ArrieroError] = {}
    if not any(chooser.shapes for chooser in choosers):
        return logits, failed
    scores = logits.clone()
    for row, chooser in enumerate(choosers):
        try:
            scores[row : row + 1] = chooser.shape(scores[row : row + 1]) if chooser.shapes else scores[row : row + 1]
        except ArrieroError as error:
            failed[row] = error
        except (ValueError, RuntimeError, IndexError) as error:
            failed[row] = EngineError(f"the next token could not be chosen: {error}")
    return scores, failed


def _likeliest(scores: torch.Tensor) -> torch.Tensor:
    """The most probable token of each row, -1 where there is none: (rows,)."""
    best, tokens = scores.max(dim=-1)
    return torch.where(best.isfinite(), tokens, -1)


def _drawn(scores: torch.Tensor, warping: Warping, choosers: Sequence[Chooser]) -> torch.Tensor:
    """A random token of each row, -1 where its probabilities are no numbers: (rows,).

    A row's token is the first at which the summed probabilities exceed that request's random number, so what one
    request draws does not depend on the others.
    """
    probabilities = _warpers(*warping)(None, scores).softmax(dim=-1)
    summed = probabilities.double().cumsum(dim=-1)  # float32 would lose the rare tokens' share
    whole = summed[:, -1:]
    numbers = torch.tensor([[chooser.draw()] for chooser in choosers], dtype=torch.float64, device=scores.device)
    tokens = torch.searchsorted(summed, numbers * whole, right=True)
    return torch.where(whole > 0, tokens, -1)[:, 0]


def _logprobs(logits: torch.Tensor, tokens: list[int], wanted: list[int | None]) -> dict[int, TokenLogprob]:
    """By row, for the rows that want them (with so many alternatives) and have a token."""
    rows = [row for row, count in enumerate(wanted) if count is not None and tokens[row] >= 0]
    if not rows:
        return {}
    found = logprobs(logits[rows], [tokens[row] for row in rows], max(wanted[row] or 0 for row in rows))
    return {row: replace(each, top=each.top[: wanted[row]]) for row, each in zip(rows, found, strict=True)}


def logprobs(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> list[TokenLogprob]:
    """Log-probabilities of `tokens`, one for each row of logits (tokens, vocabulary), and of the most probable ones."""
    if not tokens:
        return []
    values = logits.log_softmax(dim=-1)
    chosen = values.gather(1, torch.tensor(tokens, device=values.device)[:, None])[:, 0].tolist()
    best, ids = (part.tolist() for part in values.topk(min(alternatives, values.shape[-1])))
    return [
        TokenLogprob(token, chosen[at], tuple(zip(ids[at], best[at], strict=True))) for at, token in enumerate(tokens)
    ]


def _warping(sampling: Sampling) -> Warping | None:
    """What of the sampling parameters shapes the draw; None for greedy."""
    if sampling.temperature is None or sampling.temperature < GREEDY_BELOW:
        return None
    top_p = 1.0 if sampling.top_p is None else sampling.top_p
    return float(sampling.temperature), sampling.top_k or 0, float(top_p), float(sampling.min_p or 0)


@functools.lru_cache(maxsize=256)
def _warpers(temperature: float, top_k: int, top_p: float, min_p: float) -> LogitsProcessorList:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    return warpers
