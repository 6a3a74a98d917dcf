"""Keys and values: of prompts being read, of answers that share a batch, of answers on their own.

Prompts   left-padded, in a cache of their own      . . p p p       one call for short prompts together,
                                                    p p p p p       several for a long one
Batch     every row begins at 0 and has its own     p p p a a . .   the next key of row 0 goes to column 5,
          length; nothing is ever moved sideways    p p p p p a .   that of row 1 to column 6
Alone     one request, the model's own cache

On a CPU prompts and batches have some more padding, so that calls have few sizes: see `forward.rounded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.sampler import BatchSampler, logprobs

COLUMNS = 128  # buffers grow by so many at once


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
    """Answers that go on together in one call, whatever their lengths."""

    def __init__(self, forward: Forward, adapter: str | None) -> None:
        self.adapter = adapter
        self.requests: list[Request] = []
        self.sampler = BatchSampler()
        self._forward = forward
        self._rows = _Rows()
        self._cache = DynamicCache()

    def join(self, request: Request, cache: DynamicCache, row: int, padding: int) -> None:
        """Take over a request whose prompt has been read into `cache[row]`, behind so much padding."""
        if not self.requests:  # a fresh buffer, so that one long answer of the past takes no memory for ever
            self._cache.layers = [_SharedLayer(self._rows, layer) for layer in cache.layers]
        length = len(request.prompt_ids)
        self._reserve(len(self.requests) + 1, max([length, *self._rows.lengths]) + 1)
        for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
            mine.fill(len(self.requests), theirs.keys[row, :, padding:], theirs.values[row, :, padding:])
        self.requests.append(request)
        self._rows.lengths.append(length)

    def step(self) -> torch.Tensor:
        """See `Lane.step`."""
        count, columns = self._reserve(len(self.requests), max(self._rows.lengths) + 1)
        device = self._forward.device
        self._rows.begin(count, columns)
        ids = [request.newest for request in self.requests] + [0] * (count - len(self.requests))
        newest = torch.tensor(ids, device=device)[:, None]
        positions = self._rows.on(device)[1][:, None]
        mask = (torch.arange(columns, device=device) <= positions).long()
        logits = self._forward(newest, mask, positions, self._cache)[:, -1]
        self._rows.lengths = [length + 1 for length in self._rows.lengths]
        return logits[: len(self.requests)]

    def keep(self, rows: Sequence[int]) -> None:
        """See `Lane.keep`. Rows from the end take the places of those that leave."""
        gone = sorted(set(range(len(self.requests))) - set(rows))
        places = [row for row in gone if row < len(rows)]
        movers = [row for row in rows if row >= len(rows)]
        for target, source in zip(places, movers, strict=True):
            self.requests[target] = self.requests[source]
            self._rows.lengths[target] = self._rows.lengths[source]
        del self.requests[len(rows) :], self._rows.lengths[len(rows) :]
        if not self.requests:
            self._cache.layers = []
        elif places:
            for layer in self._cache.layers:
                layer.move(places, movers)

    @property
    def bytes_held(self) -> int:
        """Bytes of all buffers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers)

    def _reserve(self, rows: int, columns: int) -> tuple[int, int]:
        """Make room for so many rows and columns, and for padding; returns both with padding."""
        rows, columns = self._forward.padded(rows, columns)
        for layer in self._cache.layers:
            layer.reserve(rows, columns, max(self._rows.lengths, default=0))
        return rows, columns


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


class _Rows:
    """The lengths of a batch's rows so far, and while a step runs the column of each row's newest id.

    A step computes `count` rows. Those behind the requests' are padding: one id in column 0 of a place that is free.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.count, self.columns = 0, 0
        self._places: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def begin(self, count: int, columns: int) -> None:
        """A step begins, in which every row gets one more id."""
        self.count, self.columns = count, columns
        self._places = {}

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each newest id, each (rows,), on the device of a layer."""
        if device not in self._places:
            columns = torch.tensor(self.lengths + [0] * (self.count - len(self.lengths)), device=device)
            self._places[device] = torch.arange(self.count, device=device), columns
        return self._places[device]


class _SharedLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, columns, size of a head), in buffers that rows and columns grow into.

    What lies beyond a row's length is zero or left over; the attention mask hides it.
    """

    def __init__(self, rows: _Rows, like: DynamicLayer) -> None:
        super().__init__()
        self._rows = rows
        self.lazy_initialization(like.keys, like.values)
        self.keys, self.values = like.keys[:0, :, :0], like.values[:0, :, :0]

    def reserve(self, rows: int, columns: int, used: int) -> None:
        """Make room for so many rows and columns; of the old ones only the first `used` columns are in use."""
        if rows > self.keys.shape[0] or columns > self.keys.shape[2]:
            self.keys = _grown(self.keys, rows, columns, used)
            self.values = _grown(self.values, rows, columns, used)

    def fill(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a prompt into a row: each (heads, columns, size of a head)."""
        for mine, theirs in ((self.keys, keys), (self.values, values)):
            mine[row, :, : theirs.shape[1]] = theirs
            mine[row, :, theirs.shape[1] :] = 0  # a mask hides numbers, but not the NaN of a row that failed here

    def move(self, places: list[int], movers: list[int]) -> None:
        """Copy rows to other places, whole: no NaN of who was there before may stay behind their ends."""
        self.keys[places] = self.keys[movers]
        self.values[places] = self.values[movers]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Store the newest keys and values, (rows, heads, 1, size of a head); returns all so far."""
        rows, columns = self._rows.on(key_states.device)
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        return self.keys[: len(rows), :, : self._rows.columns], self.values[: len(rows), :, : self._rows.columns]

    def get_seq_length(self) -> int:
        """Columns before the newest, as the model's mask counts them."""
        return self._rows.columns - 1


def column_bytes(cache: DynamicCache) -> int:
    """Bytes of one token's keys and values; 0 where a cache does not keep them for every token."""
    if not all(isinstance(layer, DynamicLayer) and layer.is_initialized for layer in cache.layers):
        return 0
    return sum(layer.keys[0, :, 0].nbytes + layer.values[0, :, 0].nbytes for layer in cache.layers)


def room(rows: int, columns: int) -> tuple[int, int]:
    """The size of a buffer in which so many rows and columns are needed."""
    return rows + rows // 2, -(-columns // COLUMNS) * COLUMNS


def _grown(buffer: torch.Tensor, rows: int, columns: int, used: int) -> torch.Tensor:
    """A buffer with room for at least this, and the old content."""
    rows, columns = room(rows, columns)
    grown = buffer.new_zeros(rows, buffer.shape[1], columns, buffer.shape[3])
    old = buffer[:rows, :, :used]
    grown[: len(old), :, :used] = old
    return grown
