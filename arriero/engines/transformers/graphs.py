"""Decode steps of a batch, captured as CUDA graphs and replayed: one launch instead of hundreds.

first steps of a bucket    computed by the model; most buckets of a batch that grows see no more of them
the next one               computed by the model, captured, and the graph's logits compared with the model's
from then on               replayed: the newest tokens and their positions are copied into the graph's input

A bucket is a number of sequences and one of cache positions, see cache.py. All graphs of a batch read and write the one
KV cache that it has, at the slots and positions that their input says, so a step may be the model's and the next one a
graph's. Prefill is the model's. An adapter's layers are part of its graphs, and its batches have a cache of their own.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from arriero.cuda_graphs import MOST, REMEMBERED, Capture, Captured, CudaCapture, put, refill
from arriero.engines.registry import CudaGraphs
from arriero.engines.transformers.cache import Bucket, KVCache
from arriero.engines.transformers.forward import Forward
from arriero.errors import UsageError

PATIENCE = 3  # steps of a bucket before it is captured, which takes as long as some five of them
EXACT, ROUNDED = 1e-3, 0.1  # how far logits may be apart in float32 and in 16 bits; what is wrong is by about 1
log = logging.getLogger(__name__)
Key = tuple[int, Bucket]  # the version of a cache, and the size of the step


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured step: its input, (2, sequences), what replays it, and where its logits then are."""

    inputs: Tensor
    captured: Captured


class DecodeGraphs:
    """Graphs by cache and bucket, at most MOST. `off` says why there are none any more."""

    def __init__(self, forward: Forward, capture: Capture) -> None:
        self.graphs: OrderedDict[Key, Graph] = OrderedDict()
        self.seen: OrderedDict[Key, int] = OrderedDict()
        self.caches: dict[str | None, KVCache] = {}
        self.off = ""
        self._warned = False
        self._forward, self._capture = forward, capture

    def cache(self, adapter: str | None) -> KVCache:
        """The KV cache for a batch with this adapter: the one of the last such batch, if it is still there."""
        if self.off:
            return KVCache()
        return self.caches.setdefault(adapter, KVCache(static=True))

    def decode(self, inputs: Tensor, cache: KVCache) -> Tensor:
        """See `Forward.decode`. The logits are gone with the next call."""
        count = inputs.shape[1]
        key = cache.version, Bucket.of(count, max(cache.lengths) + 1)
        if graph := self.graphs.get(key):
            self.graphs.move_to_end(key)
            return _replayed(graph, inputs)[:count]
        logits = self._forward.decode(inputs, cache)
        if self._due(key, cache):
            self._add(key, cache, inputs, logits)
        return logits

    def retain(self, adapters: Collection[str]) -> None:
        """Drop the caches of adapters that are not loaded any more."""
        for adapter in self.caches.keys() - {None, *adapters}:
            self._drop(adapter)

    def release_idle(self) -> None:
        """Give back the memory of caches that no batch uses."""
        for adapter, cache in list(self.caches.items()):
            if not cache.lengths:
                self._drop(adapter)

    def release(self, reason: str) -> None:
        """Make no graphs any more, and give back the memory of those there are."""
        log.warning("CUDA graphs are off from now on, the model computes all decode steps: %s", reason)
        self.off = reason
        for cache in self.caches.values():
            cache.static = False
        for kept in (self.caches, self.graphs, self.seen):
            kept.clear()

    def _drop(self, adapter: str | None) -> None:
        del self.caches[adapter]
        self._sweep()

    def _sweep(self) -> None:
        """Drop the graphs of buffers that are no more."""
        versions = {cache.version for cache in self.caches.values()}
        for key in [key for key in self.graphs if key[0] not in versions]:
            del self.graphs[key]

    def _due(self, key: Key, cache: KVCache) -> bool:
        """Whether a step of this key is to be captured now."""
        if self.off:
            return False
        steps = self.seen.pop(key, 0)  # popped and put, so that the first one is the one not met for longest
        put(self.seen, key, steps + 1, REMEMBERED)
        if steps != PATIENCE:
            return False
        if not cache.holds(key[1]) and not self._warned:
            self._warned = True
            log.warning("decode steps are not captured where a KV cache for graphs would take half of what is free")
        return cache.holds(key[1])

    def _add(self, key: Key, cache: KVCache, inputs: Tensor, logits: Tensor) -> None:
        """Have a graph from now on, if it computes the `logits` that the model has computed for the same step."""
        self._sweep()  # before the capture, which needs memory
        try:
            graph = self._captured(key[1], cache, inputs)
            apart = distance(_replayed(graph, inputs)[: len(logits)], logits)
        except Exception as error:  # whatever cannot be captured is computed by the model
            self.release(f"capturing raises {type(error).__name__}: {error}")
            return
        if not apart <= (EXACT if self._forward.dtype == torch.float32 else ROUNDED):
            self.release(f"the logits of a captured step are {apart:.2g} off")
            return
        put(self.graphs, key, graph, MOST)
        log.info("captured a CUDA graph for %s, logits %.1e apart", key[1], apart)

    def _captured(self, bucket: Bucket, cache: KVCache, inputs: Tensor) -> Graph:
        """Steps may be computed any number of times: each writes the same to the same positions of the KV cache."""
        # (2, sequences of the bucket); those behind the batch's decode id 0 at position 0 of free slots
        static = pad(inputs, (0, bucket.sequences - inputs.shape[1])).to(self._forward.device)
        with self._capture.stream():
            captured = self._capture(lambda: self._forward.static_decode(static, cache, bucket.positions))
        return Graph(static, captured)


def decode_graphs(forward: Forward, option: CudaGraphs) -> DecodeGraphs | None:
    """Graphs for a model where the `option` has them and they can be; announced.

    Raises UsageError where they are demanded and cannot be.
    """
    if option == "off":
        return None
    cuda = forward.device.type == "cuda"
    reason = forward.obstacle() or ("this machine has no CUDA GPU" if not cuda else None)
    if reason is None:
        log.info("CUDA graphs: for decode steps")
        return DecodeGraphs(forward, CudaCapture(forward.device))
    if option == "on":
        raise UsageError(f"--cuda-graphs on: {reason}", hint="--cuda-graphs auto")
    if cuda:  # elsewhere nobody expects any
        log.info("CUDA graphs left out: %s", reason)
    return None


def _replayed(graph: Graph, inputs: Tensor) -> Tensor:
    """Logits of a graph's sequences, the first of which are those of `inputs`."""
    refill(graph.inputs, pad(inputs, (0, graph.inputs.shape[1] - inputs.shape[1])))
    replay, logits = graph.captured
    replay()
    return logits


def distance(ours: Tensor, theirs: Tensor) -> float:
    """How far logits are apart, relative to all of them; what is no finite number on either side counts as 0."""
    ours, theirs = (torch.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0) for logits in (ours, theirs))
    apart, whole = (float(logits.norm()) for logits in (ours - theirs, theirs))
    return apart / whole if whole else apart
