"""Which prompts are prefilled and which answers decoded, step by step: chunked prefill and continuous batching.

Every step prefills one chunk of the prompts that come next and then decodes one more id of every answer in flight, so
a long prompt holds nobody up for longer than a chunk takes, and a cancelled request is gone after one step.

    waiting ─> PrefillBatch (one chunk a step) ─┬─> DecodeBatch of the same adapter ─┬─> finished, cancelled, failed
                                                └─> SingleSequence                   ┘

A request is in one of these at a time. One that has ended is dropped with the next step, from a PrefillBatch when its
prefill is over. One that outgrows the original context of longrope waits again: its answer so far is prefilled, too.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch

from arriero.engines.llguidance import Grammars
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.batches import Batch, DecodeBatch, PrefillBatch, SingleSequence
from arriero.engines.transformers.cache import buffer_size, position_bytes
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.errors import ArrieroError, MemoryLimitError
from arriero.hardware import free_memory, gpus, out_of_memory

MAX_REQUESTS = 64  # in flight at once; more wait their turn
CHUNK = 2048 if gpus() else 512  # ids, padding included, of one prompt or several, that one call prefills
TURN = 4  # steps that one adapter stays in force while others wait, since changing it costs some 10 ms
log = logging.getLogger(__name__)


class Scheduler:
    """The requests of one model. Only the engine's thread uses it."""

    def __init__(
        self,
        forward: Forward,
        adapters: Adapters,
        grammars: Grammars,
        stop_token_ids: Collection[int],
        graphs: DecodeGraphs | None = None,
    ) -> None:
        self._forward = forward
        self._graphs = graphs
        self._adapters = adapters
        self._grammars = grammars
        self._stop_token_ids = frozenset(stop_token_ids)
        self._waiting: deque[Request] = deque()
        self._prefilling: PrefillBatch | None = None
        self._batches: list[Batch] = []
        self._position_bytes: int | None = None  # not measured yet

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    @property
    def requests(self) -> list[Request]:
        """All that have not ended."""
        prefilling = self._prefilling.requests if self._prefilling else []
        decoding = itertools.chain.from_iterable(batch.requests for batch in self._batches)
        return [*self._waiting, *prefilling, *decoding]

    def end_cancelled(self) -> None:
        """End what has been cancelled; what it holds is freed by the next step."""
        _end_cancelled(self.requests)

    def step(self) -> None:
        """Go on with everything by a little. No request's failure leaves this method, but that of the GPU does."""
        with torch.inference_mode(), _failing(self.requests):
            self._step()

    def _step(self) -> None:
        self.end_cancelled()
        self._waiting = deque(request for request in self._waiting if not request.ended)
        if self._prefilling is not None and all(request.ended for request in self._prefilling.requests):
            self._prefilling = None
        self._prefilling = self._prefilling or self._next_prefill()
        if self._prefilling is not None:
            self._prefill(self._prefilling)
        turns = TURN if len({batch.adapter for batch in self._batches}) > 1 else 1
        # by adapter, so that one is put in force once for all of its batches
        for batch in sorted(self._batches, key=lambda batch: batch.adapter or ""):
            for _ in range(turns):
                self._decode(batch)
        self._batches = [batch for batch in self._batches if batch.requests]
        if self._graphs is not None:  # adapters are deleted between steps
            self._graphs.retain(self._adapters.names)

    def end(self) -> None:
        """Cancel everything."""
        for request in self.requests:
            request.finish("cancelled")
        self._waiting.clear()
        self._prefilling = None
        self._batches = []

    def _next_prefill(self) -> PrefillBatch | None:
        """Prompts to prefill together: of one adapter, in order of arrival, not more than fit into one chunk."""
        chosen: list[Request] = []
        for request in [self._waiting.popleft() for _ in range(self._next_count())]:
            with _failing([request]):
                if not request.answer_ids:
                    request.prepare(self._grammars)
                chosen.append(request)
        if not chosen:
            return None
        return PrefillBatch(self._forward, chosen, CHUNK, shared=self._shares(chosen[0]))

    def _next_count(self) -> int:
        """How many of the waiting requests go together now; where calls are padded a power of two, see `rounded`.

        The first that does not fit ends the count: nobody is overtaken, so a long prompt does not wait for ever.
        """
        slots = MAX_REQUESTS - sum(len(batch.requests) for batch in self._batches)
        candidates: list[Request] = []
        for request in itertools.islice(self._waiting, slots):
            if not (self._together([*candidates, request]) and self._fit([*candidates, request])):
                break
            candidates.append(request)
        count = len(candidates)
        return 1 << (count.bit_length() - 1) if self._forward.pads and count else count

    def _together(self, requests: Sequence[Request]) -> bool:
        """Whether prompts can be prefilled in one call. A single one always can, if need be in several."""
        _, positions = self._forward.padded(1, max(request.length for request in requests))
        alike = len({request.adapter for request in requests}) == 1 and all(map(self._shares, requests))
        return len(requests) == 1 or (alike and positions * len(requests) <= CHUNK)

    def _shares(self, request: Request) -> bool:
        """Whether a request may share a batch now."""
        inside = request.length <= self._forward.original_context
        return inside and request.longest <= self._forward.shared_length

    def _outgrown(self, request: Request) -> bool:
        """Whether the cache of a request has just become useless, since all of its positions are encoded otherwise."""
        return not request.ended and request.length == self._forward.original_context + 1

    def _fit(self, requests: Sequence[Request]) -> bool:
        """Whether there is memory for requests beside what is in flight; where nothing is, any single one is tried.

        Those of its batch are counted at the length that they can come to, not at the one they have, so that a batch
        that has begun does not outgrow memory later. How much a token needs is measured on the first prompt that
        was prefilled.
        """
        single = not self._batches and len(requests) == 1
        if self._position_bytes is None:
            return single
        batch = self._decode_batch(requests[0].adapter) if self._shares(requests[0]) else None
        together = [*requests, *(batch.requests if batch else ())]
        longest = max(request.longest for request in together)
        if self._shares(requests[0]):  # whoever outgrows it leaves the batch
            longest = min(longest, self._forward.original_context)
        slots, positions = buffer_size(*self._forward.padded(len(together), longest))
        growth = slots * positions * self._position_bytes - (batch.bytes_held if batch else 0)
        if self._graphs is not None and growth > free_memory():
            self._graphs.release_idle()
        return single or growth <= free_memory()

    def _decode_batch(self, adapter: str | None) -> DecodeBatch | None:
        """The one batch that answers with this adapter share, if there is one now."""
        shared = (batch for batch in self._batches if isinstance(batch, DecodeBatch))
        return next((batch for batch in shared if batch.adapter == adapter), None)

    def _prefill(self, prefill: PrefillBatch) -> None:
        """Prefill a chunk; after the last one the requests have their first id, and are decoded from now on."""
        with _failing(prefill.requests):
            self._adapters.use(prefill.adapter)
            logits = prefill.step()
            if logits is None:
                return
            self._position_bytes = position_bytes(prefill.cache)
            for request in prefill.requests:
                if not request.limit:  # scoring was all
                    request.finish("length")
            self._sample(prefill, logits)
        self._prefilling = None  # after a failure, too: its requests have ended, and none of them joins
        for sequence, request in enumerate(prefill.requests):
            with _failing([request]):
                self._join(prefill, sequence, request)

    def _join(self, prefill: PrefillBatch, sequence: int, request: Request) -> None:
        """Have an answer decoded whose prompt was prefilled."""
        if request.ended:
            return
        if not self._shares(request):
            self._batches.append(SingleSequence(self._forward, request, prefill.cache))
            return
        batch = self._decode_batch(request.adapter)
        if batch is None:
            batch = DecodeBatch(self._forward, request.adapter, self._graphs)
            self._batches.append(batch)
        batch.join(request, prefill.cache, sequence, prefill.padding[sequence])

    def _decode(self, batch: Batch) -> None:
        """One more id of every answer in a batch."""
        _end_cancelled(batch.requests)  # prefill and other batches have taken their time since the step began
        self._keep_live(batch)
        if not batch.requests:
            return
        with _failing(batch.requests):
            self._adapters.use(batch.adapter)
            self._sample(batch, batch.step())
        self._keep_live(batch)

    def _keep_live(self, batch: Batch) -> None:
        """Take those out of a batch that have ended, and those that have to be prefilled anew."""
        outgrown = [request for request in batch.requests if self._outgrown(request)]
        self._waiting.extendleft(outgrown)
        going = [index for index, request in enumerate(batch.requests) if not (request.ended or request in outgrown)]
        if len(going) < len(batch.requests):
            batch.keep(going)

    def _sample(self, batch: Batch | PrefillBatch, logits: torch.Tensor) -> None:
        """Give each request its next id, or its failure."""
        results = batch.sampler.sample(logits, [request.sampler for request in batch.requests])
        for request, result in zip(batch.requests, results, strict=True):
            with _failing([request]):
                if isinstance(result, ArrieroError):
                    raise result
                if not request.ended:
                    request.accept(result, self._stop_token_ids)


def _end_cancelled(requests: Sequence[Request]) -> None:
    for request in requests:
        if request.generation.cancelled and not request.ended:
            request.finish("cancelled")


@contextmanager
def _failing(requests: Sequence[Request]) -> Iterator[None]:
    """What goes wrong inside is the failure of these requests, and nobody else's."""
    failure: Exception
    try:
        yield
        return
    except ArrieroError as error:
        failure = error
    except Exception as error:  # the thread must outlive any request
        if out_of_memory(error):
            failure = MemoryLimitError(
                f"out of memory while answering: {error}", hint="ask for less at once, or shorter"
            )
        else:
            log.warning("a request failed", exc_info=error)
            failure = error
    for request in requests:
        if not request.ended:
            request.fail(failure)
    if gpus():
        torch.cuda.synchronize()  # raises a fault that lasts: nothing can be computed in this process any more
        torch.cuda.empty_cache()  # so that what the failed call needed is free for all that use the GPU
