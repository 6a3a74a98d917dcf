"""What is computed together: prompts in prefill, answers that share a batch, an answer on its own.

PrefillBatch     left-padded, in a cache of their own    . . p p p    one call for short prompts together,
                                                         p p p p p    several for a long one: chunked prefill
DecodeBatch      every answer in its slot of a KV cache  see cache.py
SingleSequence   one request, the model's own cache

On a CPU both batches have some more padding, so that calls have few sizes: see `forward.rounded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import DynamicCache

from arriero.cuda_graphs import to_device
from arriero.engines.transformers.cache import KVCache
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.sampler import BatchSampler, logprobs


class Batch(Protocol):
    """Answers that are decoded together, all with the same adapter."""

    adapter: str | None
    requests: list[Request]
    sampler: BatchSampler

    def step(self) -> torch.Tensor:
        """Decode the newest id of every request; the logits of the next: (requests, vocabulary)."""
        ...

    def keep(self, sequences: Sequence[int]) -> None:
        """Forget all requests but those at these indices of `requests`."""
        ...


class PrefillBatch:
    """Prompts in prefill together, at most `chunk` cache positions of each at a time.

    Two prompts of 3 and 5 tokens, with a `chunk` of 4 (the scheduler puts together only what one chunk holds):

        ids        0  0  p  p | p        padded at the left, so that all end at once and the logits
                   p  p  p  p | p        of the last cache position are those of every request
        positions -2 -1  0  1 | 2        below 0 is padding: the mask hides it
                   0  1  2  3 | 4
                   step 1       step 2

    longrope encodes the positions of a call by the last of them. So where a prompt is longer than the original context,
    the prompt's last id is in the calls for its first chunks, too, and is cut off the cache again.
    """

    def __init__(self, forward: Forward, requests: Sequence[Request], chunk: int, *, shared: bool) -> None:
        """`shared`: the requests may share a batch, so their cache may hold padding."""
        self.requests = list(requests)
        self.adapter = requests[0].adapter
        self.sampler = BatchSampler()
        # the model's own kind drops what leaves a sliding window, and a DecodeBatch takes over every position
        self.cache = DynamicCache() if shared else forward.cache()
        self._forward = forward
        longest = max(request.length for request in requests)
        if shared:
            _, longest = forward.padded(1, longest)
        self.padding = [longest - request.length for request in requests]
        padded = zip(requests, self.padding, strict=True)
        ids = torch.tensor([[0] * padding + request.ids for request, padding in padded])
        self._ids = to_device(ids, forward.device)  # (requests, cache positions), and so are the positions
        cache_positions = torch.arange(longest, device=forward.device)
        self._positions = cache_positions[None] - to_device(torch.tensor(self.padding), forward.device)[:, None]
        self._prefilled = 0  # cache positions
        self._outgrown = not shared and longest > forward.original_context
        # a cache cannot be cut back to what has left a sliding window
        self._chunk = longest if self._outgrown and longest > forward.window else chunk

    def step(self) -> torch.Tensor | None:
        """Prefill the next chunk; the logits (requests, vocabulary) after the last."""
        start, end = self._prefilled, self._prefilled + self._chunk
        every = any(request.scores and not request.answer_ids for request in self.requests)
        if self._forward.chunked:
            with_last = self._outgrown and end <= self._forward.original_context
            ids, positions = self._ids[:, start:end], self._positions[:, start:end].clamp(min=0)  # no table has less
            if with_last:
                ids = torch.cat((ids, self._ids[:, -1:]), 1)
                positions = torch.cat((positions, self._positions[:, -1:]), 1)
            mask = (self._positions[:, : end + with_last] >= 0).long()
            logits = self._forward(ids, mask, positions, self.cache, every=every)
            if with_last:
                self.cache.crop(-1)
                logits = logits[:, :-1]
        else:
            end = self._ids.shape[1]
            logits = self._forward.single(self._ids, 0, self.cache, every=every)
        self._prefilled = end
        if every:
            self._score(logits, start)
        return logits[:, -1] if end >= self._ids.shape[1] else None

    def _score(self, logits: torch.Tensor, start: int) -> None:
        """Give requests that want them the log-probabilities of their prompts' ids, from logits after cache positions.

        `logits` is (requests, positions from `start` on, vocabulary). Those after a position score the id at the next
        one: a chunk's first id was scored by the chunk before, and a prompt's first id by nothing.
        """
        for sequence, request in enumerate(self.requests):
            if request.scores:
                first = max(start, self.padding[sequence])  # what stands before is padding
                targets = self._ids[sequence, first + 1 : start + logits.shape[1] + 1].tolist()
                scores = logits[sequence, first - start :][: len(targets)]
                request.generation.prompt_logprobs += logprobs(scores, targets, request.alternatives or 0)


class DecodeBatch:
    """Answers that are decoded in one call, whatever their lengths; by CUDA graphs where there are any.

    Request, slot of the KV cache and row of the logits have the same index: `requests[i]` is in slot i, and its length
    is `lengths[i]`. The ids of a request are one more than its length, since the newest is not in the cache yet.
    """

    def __init__(self, forward: Forward, adapter: str | None, graphs: DecodeGraphs | None = None) -> None:
        self.adapter = adapter
        self.requests: list[Request] = []
        self.sampler = BatchSampler()
        self._forward = forward
        self._graphs = graphs
        self._cache = KVCache() if graphs is None else graphs.cache(adapter)

    def join(self, request: Request, cache: DynamicCache, sequence: int, padding: int) -> None:
        """Take over a request whose prompt was prefilled as `sequence` of `cache`, behind that much padding."""
        length = len(request.prompt_ids)
        longest = max([length, *self._cache.lengths]) + 1  # with the token of the next step
        self._cache.reserve(*self._forward.padded(len(self.requests) + 1, longest), like=cache)
        self._cache.add(cache, sequence, padding, length)
        self.requests.append(request)

    def step(self) -> torch.Tensor:
        """See `Batch.step`."""
        # (2, sequences): the newest tokens, and the cache positions that they go to
        inputs = torch.tensor([[request.newest for request in self.requests], self._cache.lengths])
        self._cache.reserve(*self._forward.padded(len(self.requests), max(self._cache.lengths) + 1))
        decode = self._forward.decode if self._graphs is None else self._graphs.decode
        logits = decode(inputs, self._cache)
        self._cache.lengths = [length + 1 for length in self._cache.lengths]
        return logits

    def keep(self, sequences: Sequence[int]) -> None:
        """See `Batch.keep`. Requests from the end take the slots of those that leave: slots have no gaps."""
        count = len(sequences)
        left = sorted(set(range(len(self.requests))) - set(sequences))
        slots = [sequence for sequence in left if sequence < count]
        movers = [sequence for sequence in sequences if sequence >= count]
        for slot, mover in zip(slots, movers, strict=True):
            self.requests[slot] = self.requests[mover]
        del self.requests[count:]
        self._cache.keep(count, slots, movers)

    @property
    def bytes_held(self) -> int:
        """Bytes of all buffers."""
        return self._cache.nbytes


class SingleSequence:
    """An answer on its own, for models and lengths that share no batch."""

    def __init__(self, forward: Forward, request: Request, cache: DynamicCache) -> None:
        self.adapter = request.adapter
        self.requests = [request]
        self.sampler = BatchSampler()
        self._forward = forward
        self._cache = cache

    def step(self) -> torch.Tensor:
        """See `Batch.step`."""
        ids = self.requests[0].prompt_ids + self.requests[0].answer_ids
        given = to_device(torch.tensor([ids]), self._forward.device)
        return self._forward.single(given, len(ids) - 1, self._cache)[:, -1]

    def keep(self, sequences: Sequence[int]) -> None:
        """See `Batch.keep`."""
        self.requests = [self.requests[sequence] for sequence in sequences]
