"""Logits processors for a whole batch: each works on those of its rows that ask for it, by each row's own parameters.

What depends on nothing but who is in the batch is put on the device once, and a step takes as many operators for 64
requests as for one. Nothing here waits for the device.

The formulas are those of transformers' processors, which take one set of parameters for all rows; presence and
frequency penalty are those of OpenAI's API (https://platform.openai.com/docs/api-reference/completions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from arriero.cuda_graphs import to_device
from arriero.engines.llguidance import bitmask
from arriero.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.engines.transformers.sampler import Sampler


class Rows:
    """Some rows of a batch of `count`, by number. All of them are neither gathered nor put back.

    batch   numbers   of(batch)   own   put(batch, own)
      a       1, 3        b        B           a
      b                   d        D           B
      c                                        c
      d                                        D
    """

    def __init__(self, numbers: Sequence[int], count: int, device: torch.device) -> None:
        self.numbers = list(numbers)
        self.device = device
        self._index = to_device(torch.tensor(self.numbers), device) if len(self.numbers) < count else None

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, batch: torch.Tensor) -> torch.Tensor:
        """These rows of a tensor (batch, …)."""
        return batch if self._index is None else batch.index_select(0, self._index)

    def put(self, batch: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """The tensor (batch, …) with `own` in place of these rows; the one that was given stays as it is."""
        return own if self._index is None else batch.index_copy(0, self._index, own)

    def column(self, values: Sequence[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """One value for each of these rows: (rows, 1)."""
        return to_device(torch.tensor(values, dtype=dtype), self.device)[:, None]


class Bias:
    """logit_bias: added to the logits of the ids that it names."""

    def __init__(self, samplers: Sequence[Sampler], device: torch.device) -> None:
        entries = [(row, *entry) for row, sampler in enumerate(samplers) for entry in sampler.sampling.logit_bias]
        rows, tokens, values = zip(*entries, strict=True)
        self._indices = to_device(torch.tensor(rows), device), to_device(torch.tensor(tokens), device)
        self._values = to_device(torch.tensor(values, dtype=torch.float32), device)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Biased scores of the whole batch: (batch, vocabulary)."""
        return scores.index_put(self._indices, self._values, accumulate=True)


class Penalties:
    """Repetition penalty over prompt and answer, presence and frequency penalty over the answer only.

    What a request has had so far are two rows here, (vocabulary,) each, and views of them with its sampler: so they
    move on with it when others join or leave the batch. The first row says which ids were seen, in the prompt or in the
    answer, the second how often each is in the answer.
    """

    def __init__(self, samplers: Sequence[Sampler], rows: Rows, vocabulary: int) -> None:
        self._rows = rows
        own = [samplers[row] for row in rows.numbers]
        self._repetition = rows.column([1.0 if (p := s.sampling.repetition_penalty) is None else p for s in own])
        self._presence = rows.column([sampler.sampling.presence_penalty or 0.0 for sampler in own])
        self._frequency = rows.column([sampler.sampling.frequency_penalty or 0.0 for sampler in own])
        pasts = [_past(sampler, vocabulary, rows.device) for sampler in own]
        # stacked, (rows, vocabulary), so that a step counts by one operator; what a sampler keeps are views of its row
        self._seen = torch.stack([seen for seen, _ in pasts])
        self._counts = torch.stack([counts for _, counts in pasts])
        for sampler, seen, counts in zip(own, self._seen, self._counts, strict=True):
            sampler.past = seen, counts

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Penalised scores of the whole batch: (batch, vocabulary)."""
        own = self._rows.of(scores)
        penalised = torch.where(own < 0, own * self._repetition, own / self._repetition)
        own = torch.where(self._seen, penalised, own)
        own = own - (self._presence * (self._counts > 0) + self._frequency * self._counts)
        return self._rows.put(scores, own)

    def count(self, tokens: torch.Tensor) -> None:
        """Take note of the batch's sampled tokens, (batch,); those below 0 are none."""
        own = self._rows.of(tokens)[:, None]
        sampled = own >= 0
        own = own.clamp(min=0)  # scatter takes no index below 0; id 0 gets what it had
        self._counts.scatter_add_(1, own, sampled.to(self._counts.dtype))
        self._seen.scatter_(1, own, self._seen.gather(1, own) | sampled)


def _past(sampler: Sampler, vocabulary: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """For each id whether it was seen, and how often in the answer, so far or at the end of the prompt."""
    if sampler.past is not None:
        seen, counts = sampler.past
        more = (0, vocabulary - len(seen))  # where an adapter has brought tokens since then
        return torch.nn.functional.pad(seen, more), torch.nn.functional.pad(counts, more)
    seen = torch.zeros(vocabulary, dtype=torch.bool)
    seen[list(sampler.prompt_ids)] = True
    return to_device(seen, device), torch.zeros(vocabulary, device=device)


class GrammarMask:
    """Forbids what the requests' grammars do not allow, by one mask that is sent to the device as bits."""

    def __init__(self, samplers: Sequence[Sampler], rows: Rows) -> None:
        self._rows = rows
        self._grammars = [grammar for row in rows.numbers if (grammar := samplers[row].grammar) is not None]
        self._vocabulary = min(grammar.vocabulary for grammar in self._grammars)
        self._bit = torch.arange(32, dtype=torch.int32, device=rows.device)

    def __call__(self, scores: torch.Tensor, failed: dict[int, ArrieroError]) -> torch.Tensor:
        """Masked scores of the whole batch, (batch, vocabulary); failures of single grammars go to `failed` by row."""
        bits = bitmask(len(self._grammars), self._vocabulary)
        for at, grammar in enumerate(self._grammars):
            try:
                grammar.fill(bits, at)
            except ArrieroError as error:
                failed[self._rows.numbers[at]] = error
        # (rows, words of 32 ids, 1)
        words = to_device(torch.from_numpy(bits), self._rows.device)[:, :, None]
        allowed = ((words >> self._bit) & 1).flatten(1)[:, : self._vocabulary].bool()
        own = self._rows.of(scores)
        missing = own.shape[1] - allowed.shape[1]  # below 0 where the tokenizer has more ids than the model
        allowed = torch.nn.functional.pad(allowed, (0, missing))  # ids that the tokenizer does not have stay out
        return self._rows.put(scores, own.masked_fill(~allowed, -torch.inf))


class Filters:
    """Temperature, top_k, top_p and min_p of the rows that sample: scores -> probabilities."""

    def __init__(self, samplers: Sequence[Sampler], rows: Rows, vocabulary: int) -> None:
        own = [samplers[row].sampling for row in rows.numbers]
        self._temperature = rows.column([sampling.temperature or 1.0 for sampling in own])
        # one topk, as wide as the widest, gives every row its own k-th score; rows without top_k keep all
        top_k = [min(sampling.top_k or vocabulary, vocabulary) for sampling in own]
        self._widest = max((k for k in top_k if k < vocabulary), default=0)
        self._last = rows.column([min(k, self._widest) - 1 for k in top_k], torch.long) if self._widest else None
        self._any_k = rows.column([k == vocabulary for k in top_k], torch.bool)
        top_p = [1.0 if sampling.top_p is None else sampling.top_p for sampling in own]
        self._nucleus = Rows([at for at, p in enumerate(top_p) if p < 1], len(rows), rows.device)
        self._rest = self._nucleus.column([1 - top_p[at] for at in self._nucleus.numbers])
        min_p = [sampling.min_p or 0.0 for sampling in own]
        self._min_p = rows.column(min_p) if any(min_p) else None
        self.enough = torch.ones((), dtype=torch.bool, device=rows.device)

    def __call__(self, scores: torch.Tensor, candidates: int) -> torch.Tensor:
        """Probabilities of the rows that sample, from their scores: (rows, vocabulary).

        top_p looks for its nucleus among that many `candidates`, the most probable ids, since sorting all takes longer
        than everything else here; `enough` then says, on the device, whether that was right for every row.
        """
        scores = scores / self._temperature
        if self._last is not None:
            least = scores.topk(self._widest).values.gather(1, self._last)
            scores = scores.masked_fill((scores < least) & ~self._any_k, -torch.inf)
        if len(self._nucleus):
            scores = self._nucleus.put(scores, self._top_p(self._nucleus.of(scores), candidates))
        probabilities = scores.softmax(dim=-1)
        if self._min_p is not None:
            most = probabilities.amax(dim=-1, keepdim=True)
            scores = scores.masked_fill(probabilities < self._min_p * most, -torch.inf)
            probabilities = scores.softmax(dim=-1)
        return probabilities

    def _top_p(self, scores: torch.Tensor, candidates: int) -> torch.Tensor:
        """Scores without the least probable ids that together have no more than what is outside the nucleus."""
        count = min(candidates, scores.shape[1])
        ordered, ids = scores.topk(count)  # (rows, candidates) each, the most probable first
        # among all ids, not among the candidates
        probabilities = (ordered - scores.logsumexp(dim=-1, keepdim=True)).exp()
        others = 1 - probabilities.sum(dim=-1, keepdim=True) if count < scores.shape[1] else 0.0
        self.enough = ~(others > self._rest).any()  # where logits are no numbers it is enough, too
        outside = others + probabilities.flip(-1).cumsum(dim=-1).flip(-1) <= self._rest  # with all less probable ids
        outside[:, 0] = False  # top_p 0 is the most probable id, not none
        return torch.full_like(scores, -torch.inf).scatter(1, ids, ordered.masked_fill(outside, -torch.inf))
