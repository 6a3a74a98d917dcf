"""What is computed together: prompts being prefilled, answers that share a batch, answers on their own.

Prompts   left-padded, in a cache of their own      . . p p p       one call for short prompts together,
                                                    p p p p p       several for a long one
Batch     every answer in its slot of a KV cache    see cache.py
Alone     one request, the model's own cache

On a CPU prompts and batches have some more padding, so that calls have few sizes: see `forward.rounded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import DynamicCache

from arriero.engines.transformers.cache import KVCache
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.sampler import BatchSampler, logprobs


class Lane(Protocol):
    """Answers that go on together, all with the same adapter."""

    adapter: str | None
    requests: list[Request]
    sampler: BatchSampler

    def step(self) -> torch.Tensor:
        """Read the newest id of every request; the logits of the next: (requests, vocabulary)."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all requests but these."""
        ...


class Prompts:
    """Prompts that are read together, at most `chunk` columns at a time."""

    def __init__(self, forward: Forward, requests: Sequence[Request], chunk: int, *, shared: bool) -> None:
        """`shared`: the requests may share a batch, so their cache may hold padding."""
        self.requests = list(requests)
        self.adapter = requests[0].adapter
        self.sampler = BatchSampler()
        self.cache = DynamicCache() if shared else forward.cache()
        self._forward = forward
        longest = max(len(request.prompt_ids) for request in requests)
        if shared:
            _, longest = forward.padded(1, longest)
        self.padding = [longest - len(request.prompt_ids) for request in requests]
        rows = zip(requests, self.padding, strict=True)
        self._ids = torch.tensor([[0] * padding + request.prompt_ids for request, padding in rows])
        self._ids = self._ids.to(forward.device)
        columns = torch.arange(longest, device=forward.device)
        self._positions = columns[None] - torch.tensor(self.padding, device=forward.device)[:, None]
        self._read = 0
        self._chunk = chunk

    def step(self) -> torch.Tensor | None:
        """Read the next chunk; the logits (requests, vocabulary) after the last."""
        start, end = self._read, self._read + self._chunk
        every = any(request.scores for request in self.requests)
        if self._forward.in_parts:
            part = slice(start, end)
            mask = (self._positions[:, :end] >= 0).long()
            positions = self._positions[:, part].clamp(min=0)
            logits = self._forward(self._ids[:, part], mask, positions, self.cache, every=every)
        else:
            end = self._ids.shape[1]
            logits = self._forward.alone(self._ids, 0, self.cache, every=every)
        self._read = end
        if every:
            self._score(logits, start)
        return logits[:, -1] if end >= self._ids.shape[1] else None

    def _score(self, logits: torch.Tensor, start: int) -> None:
        """Give requests that want them the log-probabilities of their prompts' ids, from logits after cache positions.

        `logits` is (requests, positions from `start` on, vocabulary).
        """
        for row, request in enumerate(self.requests):
            if request.scores:
                first = max(start, self.padding[row])  # what stands before is padding
                targets = self._ids[row, first + 1 : start + logits.shape[1] + 1].tolist()
                scores = logits[row, first - start :][: len(targets)]
                request.generation.prompt_logprobs += logprobs(scores, targets, request.alternatives or 0)


class Batch:
    """Answers that go on together in one call, whatever their lengths; by CUDA graphs where there are any."""

    def __init__(self, forward: Forward, adapter: str | None, graphs: DecodeGraphs | None = None) -> None:
        self.adapter = adapter
        self.requests: list[Request] = []
        self.sampler = BatchSampler()
        self._forward = forward
        self._graphs = graphs
        self._cache = KVCache() if graphs is None else graphs.cache(adapter)

    def join(self, request: Request, cache: DynamicCache, row: int, padding: int) -> None:
        """Take over a request whose prompt has been read into `cache[row]`, behind so much padding."""
        length = len(request.prompt_ids)
        longest = max([length, *self._cache.lengths]) + 1
        self._cache.reserve(*self._forward.padded(len(self.requests) + 1, longest), like=cache)
        self._cache.add(cache, row, padding, length)
        self.requests.append(request)

    def step(self) -> torch.Tensor:
        """See `Lane.step`."""
        inputs = torch.tensor([[request.newest for request in self.requests], self._cache.lengths])
        self._cache.reserve(*self._forward.padded(len(self.requests), max(self._cache.lengths) + 1))
        decode = self._forward.decode if self._graphs is None else self._graphs.decode
        logits = decode(inputs, self._cache)
        self._cache.lengths = [length + 1 for length in self._cache.lengths]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """See `Lane.keep`. Requests from the end take the slots of those that leave."""
        gone = sorted(set(range(len(self.requests))) - set(rows))
        slots = [row for row in gone if row < len(rows)]
        movers = [row for row in rows if row >= len(rows)]
        for slot, mover in zip(slots, movers, strict=True):
            self.requests[slot] = self.requests[mover]
        del self.requests[len(rows) :]
        self._cache.keep(len(rows), slots, movers)

    @property
    def bytes_held(self) -> int:
        """Bytes of all buffers."""
        return self._cache.nbytes


class Alone:
    """An answer on its own."""

    def __init__(self, forward: Forward, request: Request, cache: DynamicCache) -> None:
        self.adapter = request.adapter
        self.requests = [request]
        self.sampler = BatchSampler()
        self._forward = forward
        self._cache = cache

    def step(self) -> torch.Tensor:
        """See `Lane.step`."""
        ids = self.requests[0].prompt_ids + self.requests[0].answer_ids
        return self._forward.alone(torch.tensor([ids], device=self._forward.device), len(ids) - 1, self._cache)[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """See `Lane.keep`."""
        self.requests = [self.requests[row] for row in rows]
