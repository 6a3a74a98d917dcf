"""The KV cache of a batch: a buffer for each layer's keys and one for its values, in which sequences have their slots.

    position 0 1 2 3 4 5
    slot 0   p p a a . .   every sequence begins at cache position 0 and has its own length; nothing is ever moved
    slot 1   p p p p p a   sideways. The next key of slot 0 goes to position 4, that of slot 1 to position 6.
    slot 2   . . . . . .   What lies behind a length is zero or left over, and the attention mask hides it.

So keys never need rotating anew: a cache position is the token's position in its sequence. Buffers are made anew, and
copied once, where more slots or positions are needed. A static cache, which CUDA graphs read, then has the sizes of a
`Bucket`, as long as there is memory for that, and is kept when its batch has ended.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from arriero.cuda_graphs import to_device
from arriero.hardware import free_memory

POSITIONS = 128  # buffers grow by multiples of this
LEAST = 256  # positions of the smallest bucket
_VERSIONS = itertools.count()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes of a decode step that is captured: powers of two, so that one graph serves many steps."""

    sequences: int
    positions: int

    @classmethod
    def of(cls, sequences: int, positions: int) -> Bucket:
        """The smallest one with room for at least these."""
        return cls(1 << (sequences - 1).bit_length(), max(LEAST, 1 << (positions - 1).bit_length()))


class KVCache:
    """The sequences of a batch, whose `lengths` so far are here: sequence i has `lengths[i]` tokens in slot i.

    `version` is another one, and of no other cache, as soon as the buffers lie elsewhere: a CUDA graph has their
    addresses in it, and is good for one version only.
    """

    def __init__(self, *, static: bool = False) -> None:
        self.static = static
        self.lengths: list[int] = []
        self.version = next(_VERSIONS)
        self._step = _Step()
        self._states = DynamicCache()

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._states.layers)

    def add(self, prefilled: DynamicCache, sequence: int, padding: int, length: int) -> None:
        """Take over a prompt of `length` tokens, one `sequence` of a prefilled cache, behind that much padding.

        Room for it has been reserved.
        """
        for mine, theirs in zip(self._states.layers, prefilled.layers, strict=True):
            mine.fill(len(self.lengths), theirs.keys[sequence, :, padding:], theirs.values[sequence, :, padding:])
        self.lengths.append(length)

    def keep(self, count: int, slots: Sequence[int], movers: Sequence[int]) -> None:
        """Only `count` sequences go on: those of `movers` move to `slots`, and nothing behind them is needed."""
        for slot, mover in zip(slots, movers, strict=True):
            self.lengths[slot] = self.lengths[mover]
        del self.lengths[count:]
        if not count and not self.static:  # so that one long answer of the past takes no memory for ever
            self._states.layers = []
        elif slots:
            moves = torch.tensor([slots, movers])
            # sent to a device once: with lists as indices the host would wait for it four times a layer
            on = {device: to_device(moves, device) for device in {layer.keys.device for layer in self._states.layers}}
            for layer in self._states.layers:
                layer.move(*on[layer.keys.device])

    def holds(self, bucket: Bucket) -> bool:
        """Whether a step of that size fits into the buffers."""
        return all(
            layer.keys.shape[0] >= bucket.sequences and layer.keys.shape[2] >= bucket.positions
            for layer in self._states.layers
        )

    def reserve(self, sequences: int, positions: int, like: DynamicCache | None = None) -> None:
        """Make room for at least these; the first time for the layers of a cache `like` this one."""
        if not self._states.layers and like is not None:
            self._states.layers = [_SlotLayer(self._step, layer) for layer in like.layers]
        if self.holds(Bucket(sequences, positions)):
            return
        self.version = next(_VERSIONS)
        size = self._size(sequences, positions)
        for layer in self._states.layers:
            layer.grow(*size, used=max(self.lengths, default=0))

    def _size(self, sequences: int, positions: int) -> tuple[int, int]:
        """The size of buffers with room for at least these."""
        bucket = Bucket.of(sequences, positions)
        exact = buffer_size(sequences, positions)
        # buffers that grow lose their graphs, so they grow to a whole bucket, if that leaves half of the memory free
        needed = bucket.sequences * bucket.positions * position_bytes(self._states)
        if not self.static or needed > free_memory() // 2:
            return exact
        log.info("the KV cache has room for %d sequences of %d tokens: %.1f MB", *astuple(bucket), needed / 1e6)
        return bucket.sequences, bucket.positions

    def at(self, newest: torch.Tensor, positions: int) -> DynamicCache:
        """What the model receives in a step in which each sequence gets one more token.

        `newest` (sequences,) are the cache positions of those tokens; attention looks at the first `positions` of every
        slot. Sequences behind the cache's own are padding, at position 0 of slots that are free.
        """
        self._step.begin(newest, positions)
        return self._states


class _Step:
    """Where the newest token of each sequence goes while a step runs, on every device that has layers.

    It is one for all layers, so the positions are copied to each device once a step and not once a layer.
    """

    def __init__(self) -> None:
        self.positions = 0
        self._on: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        self._newest = torch.empty(0, dtype=torch.long)

    def begin(self, newest: torch.Tensor, positions: int) -> None:
        self._newest, self.positions, self._on = newest, positions, {}

    def on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Slot and cache position of each newest token, each (sequences,)."""
        if device not in self._on:
            newest = self._newest.to(device, non_blocking=True)
            self._on[device] = torch.arange(len(newest), device=device), newest
        return self._on[device]


class _SlotLayer(DynamicLayer):
    """One layer of the KV cache: `keys` and `values` are (slots, KV heads, cache positions, head size) each."""

    def __init__(self, step: _Step, like: DynamicLayer) -> None:
        super().__init__()
        self._step = step
        self.lazy_initialization(like.keys, like.values)
        # (0, KV heads, 0, head size); a head of values may have another size than one of keys
        self.keys, self.values = like.keys[:0, :, :0], like.values[:0, :, :0]

    def grow(self, slots: int, positions: int, *, used: int) -> None:
        """Make buffers of that size; of the old ones the first `used` positions are copied."""
        self.keys = _grown(self.keys, slots, positions, used)
        self.values = _grown(self.values, slots, positions, used)

    def fill(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put a prompt into a slot: each (KV heads, prompt tokens, head size)."""
        for mine, theirs in ((self.keys, keys), (self.values, values)):
            mine[slot, :, : theirs.shape[1]] = theirs
            mine[slot, :, theirs.shape[1] :] = 0  # a mask hides numbers, but not the NaN of a sequence that failed here

    def move(self, slots: torch.Tensor, movers: torch.Tensor) -> None:
        """Copy sequences to other slots, whole: no NaN of who was there before may stay behind their ends."""
        self.keys[slots] = self.keys[movers]
        self.values[slots] = self.values[movers]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Store the newest tokens' keys and values, (sequences, KV heads, 1, head size) each.

        Returns views of what attention looks at: (sequences, KV heads, `positions` of the step, head size) each.
        """
        slots, newest = self._step.on(key_states.device)
        self.keys[slots, :, newest] = key_states[:, :, 0]
        self.values[slots, :, newest] = value_states[:, :, 0]
        attended = self._step.positions
        return self.keys[: len(slots), :, :attended], self.values[: len(slots), :, :attended]

    def get_seq_length(self) -> int:
        """Positions before the newest, as the model's mask counts them: one number, whatever the sequences' lengths."""
        return self._step.positions - 1


def position_bytes(cache: DynamicCache) -> int:
    """Bytes of the KV cache of one token; 0 where a cache does not keep every token."""
    if not all(isinstance(layer, DynamicLayer) and layer.is_initialized for layer in cache.layers):
        return 0
    buffers = [buffer for layer in cache.layers for buffer in (layer.keys, layer.values)]
    return sum(buffer.shape[1] * buffer.shape[3] * buffer.itemsize for buffer in buffers)  # KV heads x head size


def buffer_size(sequences: int, positions: int) -> tuple[int, int]:
    """Slots and cache positions of a buffer that has room for these and some more: growing copies all of it."""
    return sequences + sequences // 2, -(-positions // POSITIONS) * POSITIONS


def _grown(buffer: torch.Tensor, slots: int, positions: int, used: int) -> torch.Tensor:
    """A buffer of that size with the old content."""
    # zeros, since a masked weight is 0, and 0 times a NaN that is left in memory is NaN
    grown = buffer.new_zeros(slots, buffer.shape[1], positions, buffer.shape[3])
    old = buffer[:slots, :, :used]
    grown[: len(old), :, :used] = old
    return grown
