"""Logits -> token ids in numpy, for requests whose controls GenAI's own sampler does not have or gets wrong.

The order is that of the transformers engine:

    logits ─> logit_bias ─> repetition_penalty ─> presence and frequency penalty ─> grammar ─┬─> temperature 0: argmax
      │                                   temperature ─> top_k ─> top_p ─> min_p ─> sample <─┘
      └─> log-probabilities, which are the model's own

The repetition penalty counts prompt and answer, presence and frequency the answer only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from arriero.errors import EngineError, UsageError
from arriero.messages import Sampling

GREEDY_BELOW = 1e-5  # dividing by less than this overflows, and leaves the most probable token anyhow
FEW = 256
Logprobs = tuple[list[float], list[list[tuple[int, float]]]]  # of tokens, and of the alternatives to each


class Mask(Protocol):
    """What a grammar has: see `engines.llguidance.Grammar`."""

    def allowed(self) -> NDArray[np.bool_]:
        """For each id whether it may come next."""
        ...

    def accept(self, token: int) -> None:
        """Go on by this id."""
        ...


class Sampler:
    """How one request samples its tokens: logits processors, then filters. `sampling` is complete."""

    def __init__(self, prompt_ids: Sequence[int], sampling: Sampling, grammar: Mask | None) -> None:
        self._sampling = sampling
        self._grammar = grammar
        self._seen = set(prompt_ids)
        self._counts: dict[int, int] = {}  # token -> how often it is in the answer
        self._random = np.random.default_rng(sampling.seed)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token after these logits, (vocabulary,), which are not changed.

        Raises UsageError for a bias of a token that the model lacks, EngineError where no token is left.
        """
        scores = self._process(logits.astype(np.float32))
        best = int(scores.argmax())
        if not np.isfinite(scores[best]):
            raise EngineError(
                "no token could be sampled: the model's logits are no finite numbers, or all are forbidden",
                hint="use --precision float32, or loosen logit_bias and schema",
            )
        temperature = self._sampling.temperature or 0.0
        if temperature < GREEDY_BELOW or not self._sampling.top_p:
            return best
        return self._draw((scores - scores[best]) / np.float32(temperature))

    def accept(self, token: int) -> None:
        """Take note of a token that was sampled and does not end the answer."""
        self._seen.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._grammar is not None:
            self._grammar.accept(token)

    def _process(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits processors, applied in place: bias, penalties, grammar."""
        sampling = self._sampling
        for token, bias in sampling.logit_bias:
            if token >= len(scores):
                raise UsageError(f"logit_bias names the token {token}, but the model's ids end at {len(scores) - 1}")
            scores[token] += bias
        if sampling.repetition_penalty not in (None, 1):
            seen = list(self._seen)
            values = scores[seen]
            # less probable on both sides of 0: dividing a negative logit would raise it
            scores[seen] = np.where(
                values < 0, values * sampling.repetition_penalty, values / sampling.repetition_penalty
            )
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            counts = np.fromiter(self._counts.values(), np.float32)
            scores[list(self._counts)] -= (sampling.presence_penalty or 0) + (sampling.frequency_penalty or 0) * counts
        if self._grammar is not None:
            allowed = self._grammar.allowed()[: len(scores)]
            scores[: len(allowed)][~allowed] = -np.inf
            scores[len(allowed) :] = -np.inf  # ids that the tokenizer does not have
        return scores

    def _draw(self, scores: NDArray[np.float32]) -> int:
        """A random token of what the filters keep. The best score is 0, so that no exponential overflows."""
        sampling = self._sampling
        tokens = np.arange(len(scores))  # scores[i] is that of tokens[i]; every filter shortens both
        if sampling.top_k and sampling.top_k < len(scores):
            # sorted: argpartition's order is arbitrary, and a seed's token would be with it
            tokens = np.sort(np.argpartition(scores, -sampling.top_k)[-sampling.top_k :])
            scores = scores[tokens]
        weights = np.exp(scores)  # probabilities but for a factor, which cancels out below
        if sampling.top_p is not None and sampling.top_p < 1:
            nucleus = _nucleus(weights, sampling.top_p)
            tokens, weights = tokens[nucleus], weights[nucleus]
        if sampling.min_p:
            kept = weights >= sampling.min_p  # the largest is 1
            tokens, weights = tokens[kept], weights[kept]
        summed = weights.cumsum(dtype=np.float64)
        return int(tokens[np.searchsorted(summed, self._random.random() * summed[-1], side="right")])


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.int64]:
    """The fewest tokens that have this part of all weight, the heaviest first.

    Only candidates are sorted, and these are few where that suffices.
    """
    total = weights.sum(dtype=np.float64)
    candidates = np.argpartition(weights, -FEW)[-FEW:] if len(weights) > FEW else np.arange(len(weights))
    # tokens below (1 - top_p) / n of the weight have together less than 1 - top_p of it: none of them is in the nucleus
    if weights[candidates].sum(dtype=np.float64) < top_p * total:
        candidates = np.flatnonzero(weights >= (1 - top_p) * total / len(weights))
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    return order[: np.searchsorted(weights[order].cumsum(dtype=np.float64), top_p * total) + 1]


def logprobs(logits: NDArray[np.float32], tokens: Sequence[int], top: int) -> Logprobs:
    """The model's log-probabilities of `tokens`, one for each row of logits, and of the `top` most probable ones."""
    scores = logits - logits.max(axis=-1, keepdims=True)  # (tokens, vocabulary); exp() of these cannot overflow
    norms = np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(scores, np.asarray(tokens)[:, None], -1) - norms
    if not top:
        return chosen[:, 0].tolist(), [[] for _ in tokens]
    best = np.argpartition(scores, -top, axis=-1)[:, -top:]  # (tokens, top), in no order
    values = np.take_along_axis(scores, best, -1) - norms
    order = np.argsort(-values, axis=-1, kind="stable")
    best, values = np.take_along_axis(best, order, -1), np.take_along_axis(values, order, -1)
    pairs = [list(zip(*row, strict=True)) for row in zip(best.tolist(), values.tolist(), strict=True)]
    return chosen[:, 0].tolist(), pairs
