"""One call of the model, and what its kind of cache allows.

A model whose KV cache keeps every token can answer many requests in one batch. Where layers see a sliding window only,
that holds for requests that end inside it. With longrope it holds for requests as long as they are inside the original
context. Everything else (longer requests, state-space and hybrid models) is answered on its own, with the model's own
cache, so that the answer is right for every model.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from arriero import hub
from arriero.cuda_graphs import to_device
from arriero.engines.compat import attention_of, is_stateful, takes_dynamic_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from arriero.engines.transformers.cache import KVCache


class Forward:
    """Calls a model with those arguments that it knows.

    `shared_length` is the longest request, prompt and answer in tokens, that may share a batch: 0 where none may.
    `original_context` is the most tokens that positions are encoded for as they begin: one more, and the cache is of no
    use. `window` is how far back every layer looks.
    `chunked` says whether a prompt can be prefilled in several calls. `pads`: on a CPU, batches and caches are padded
    to one of few sizes, see `rounded`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._parameters = frozenset(inspect.signature(model.forward).parameters)
        # Mamba calls it cache_params; a few models have a kind of their own, and prefill everything again for each id
        names = [name for name in ("past_key_values", "cache_params") if name in self._parameters]
        self._cache_name = names[0] if names and takes_dynamic_cache(model) else None
        self.shared_length, self.chunked = self._limits()
        self.window = self.shared_length  # the other one may be set to 0
        config = model.config.get_text_config()
        self.original_context = hub.original_context(config.to_dict())
        self.pads = model.device.type == "cpu"
        self._visible = min(self.shared_length, getattr(config, "max_position_embeddings", sys.maxsize))

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self._model.dtype

    def cache(self) -> DynamicCache:
        """An empty cache of the model's own kind."""
        cache: DynamicCache = DynamicCache(config=self._model.config)
        return cache

    def padded(self, sequences: int, positions: int) -> tuple[int, int]:
        """Sequences and cache positions to compute with, where at least these are needed.

        Padding stays inside the context and the sliding window: a mask measures distances from its last position.
        """
        if not self.pads:
            return sequences, positions
        return rounded(sequences), max(positions, min(rounded(positions), self._visible))

    def __call__(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
        *,
        every: bool = False,
    ) -> torch.Tensor:
        """Logits after the last id of each sequence, or after `every` new one, as float32.

        They are (sequences, 1 or new ids, vocabulary). `ids` and `positions` are (sequences, new ids), `mask` is
        (sequences, cache positions), 0 where there is only padding, or what attention takes, (sequences, 1, new ids,
        cache positions).
        """
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        return self._logits({**given, "use_cache": True, "logits_to_keep": 0 if every else 1}, every=every)

    def decode(self, inputs: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Logits after the newest token of each sequence in a batch: (sequences, vocabulary), float32.

        `inputs` is (2, sequences), on the CPU: the tokens and their positions. The cache has room for `padded` sizes.
        """
        count = inputs.shape[1]
        sequences, positions = self.padded(count, max(cache.lengths) + 1)
        ids, newest = to_device(pad(inputs, (0, sequences - count)), self.device)
        mask = (torch.arange(positions, device=self.device) <= newest[:, None]).long()  # (sequences, cache positions)
        return self(ids[:, None], mask, newest[:, None], cache.at(newest, positions))[:count, -1]

    def static_decode(self, inputs: torch.Tensor, cache: KVCache, positions: int) -> torch.Tensor:
        """The same of `inputs` on the device; attention looks at the first `positions` of the cache.

        Nothing but tensors decides what is computed, and none is read on the host: transformers reads a mask of two
        dimensions, to see if it can be left out, and takes one of four as it is.
        """
        ids, newest = inputs
        mask = torch.arange(positions, device=inputs.device) <= newest[:, None]
        return self(ids[:, None], mask[:, None, None], newest[:, None], cache.at(newest, positions))[:, -1]

    def obstacle(self) -> str | None:
        """Why decode steps of this model cannot be captured in a CUDA graph, None where they may be."""
        kind = attention_of(self._model)
        reasons = {
            "its answers are computed one at a time": not self.shared_length,
            "its attention slides over a window": self.shared_length < sys.maxsize,
            f"its attention is {kind}, and only sdpa's takes a mask of our own": kind != "sdpa",
            "its weights are quantised": not all(weight.is_floating_point() for weight in self._model.parameters()),
            "it is spread over several devices": len({weight.device for weight in self._model.parameters()}) > 1,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def single(self, ids: torch.Tensor, cached: int, cache: DynamicCache, *, every: bool = False) -> torch.Tensor:
        """The same of all ids so far of one request, (1, ids), the first `cached` of which are in `cache`.

        Models without chunked prefill are called as their own `generate` would.
        """
        mask = torch.ones_like(ids)
        if self.chunked:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
            return self(ids[:, cached:], mask, positions[:, cached:], cache, every=every)
        given: dict[str, Any] = {"attention_mask": mask, "use_cache": self._cache_name is not None}
        if self._cache_name is not None:
            given[self._cache_name] = cache
        # all ids are passed, and the model's own code cuts off what is in the cache
        new = ids.shape[1] - cached if self._cache_name is not None and cached else None
        return self._logits(
            self._model.prepare_inputs_for_generation(
                ids, next_sequence_length=new, is_first_iteration=not cached, **given
            ),
            every=every,
        )

    def _logits(self, given: dict[str, Any], *, every: bool) -> torch.Tensor:
        arguments = {name: value for name, value in given.items() if name in self._parameters}
        logits: torch.Tensor = self._model(**arguments, return_dict=True).logits
        # a model that does not know logits_to_keep gives those of all ids
        return (logits if every else logits[:, -1:]).float()

    def _limits(self) -> tuple[int, bool]:
        """`shared_length` and `chunked`."""
        if self._cache_name != "past_key_values" or is_stateful(self._model):
            return 0, False
        layers = self.cache().layers
        # states of linear attention, and whatever kinds are added: a KVCache holds none of them
        if {type(layer) for layer in layers} - {DynamicLayer, DynamicSlidingWindowLayer}:
            return 0, False
        if not {"attention_mask", "position_ids"} <= self._parameters:
            return 0, True
        windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
        if "local" in getattr(self._model.config, "attention_layers", ()):  # GPT-Neo's windows are not in its cache
            windows.append(self._model.config.window_size)
        return min(windows, default=sys.maxsize), True


def rounded(size: int) -> int:
    """`size`, or up to an eighth and at most 63 more: eight sizes from each power of two to the next, then every 64th.

    In bfloat16 oneDNN keeps about 0.6 MB for each weight matrix and each number of tokens it has been multiplied with.
    Such a size times a power of two, up to 512, is one as well; so prompts are prefilled by ones, twos, fours, …
    """
    step = 1 << min(max(size.bit_length() - 4, 0), 6)
    return -(-size // step) * step
