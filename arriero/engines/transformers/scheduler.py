"""Which prompts are read and which answers go on, step by step.

Every step reads one chunk of the prompts that come next and then one more id of every answer under way, so a long
prompt holds nobody up for longer than a chunk takes, and a cancelled request is gone after one step.

    waiting ─> prompts (one chunk a step) ─┬─> batch of the same adapter ─┬─> finished, cancelled, failed
                                           └─> alone                      ┘
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
from arriero.engines.transformers.batches import Alone, Batch, Lane, Prompts
from arriero.engines.transformers.cache import position_bytes, room, unused_memory
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.errors import ArrieroError, MemoryLimitError
from arriero.hardware import free_memory, gpus

MAX_REQUESTS = 64  # under way at once; more wait their turn
CHUNK = 2048 if gpus() else 512  # columns of a prompt, or of several together, that are read in one call
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
        self._prompts: Prompts | None = None
        self._lanes: list[Lane] = []
        self._position_bytes: int | None = None  # not known yet

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._waiting.append(request)

    @property
    def requests(self) -> list[Request]:
        """All that have not ended."""
        reading = self._prompts.requests if self._prompts else []
        return [*self._waiting, *reading, *itertools.chain.from_iterable(lane.requests for lane in self._lanes)]

    def end_cancelled(self) -> None:
        """End what has been cancelled; what it holds is freed by the next step."""
        _end_cancelled(self.requests)

    def step(self) -> None:
        """Go on with everything by a little. No request's failure leaves this method."""
        with torch.inference_mode(), _failing(self.requests):
            self._step()

    def _step(self) -> None:
        self.end_cancelled()
        self._waiting = deque(request for request in self._waiting if not request.ended)
        if self._prompts is not None and all(request.ended for request in self._prompts.requests):
            self._prompts = None
        self._prompts = self._prompts or self._next_prompts()
        if self._prompts is not None:
            self._read(self._prompts)
        turns = TURN if len({lane.adapter for lane in self._lanes}) > 1 else 1
        for lane in sorted(self._lanes, key=lambda lane: lane.adapter or ""):
            for _ in range(turns):
                self._go_on(lane)
        self._lanes = [lane for lane in self._lanes if lane.requests]
        if self._graphs is not None:
            self._graphs.retain(self._adapters.names)

    def end(self) -> None:
        """Cancel everything."""
        for request in self.requests:
            request.finish("cancelled")
        self._waiting.clear()
        self._prompts = None
        self._lanes = []

    def _next_prompts(self) -> Prompts | None:
        """Prompts to read together: of one adapter, in order of arrival, not more than fit into one chunk."""
        chosen: list[Request] = []
        for request in [self._waiting.popleft() for _ in range(self._next_count())]:
            with _failing([request]):
                request.prepare(self._grammars)
                chosen.append(request)
        if not chosen:
            return None
        return Prompts(self._forward, chosen, CHUNK, shared=self._shares(chosen[0]))

    def _next_count(self) -> int:
        """How many of the waiting requests go together now; where calls are padded a power of two, see `rounded`."""
        room_for = MAX_REQUESTS - sum(len(lane.requests) for lane in self._lanes)
        candidates: list[Request] = []
        for request in itertools.islice(self._waiting, room_for):
            if not (self._together([*candidates, request]) and self._fit([*candidates, request])):
                break
            candidates.append(request)
        count = len(candidates)
        return 1 << (count.bit_length() - 1) if self._forward.pads and count else count

    def _together(self, requests: Sequence[Request]) -> bool:
        """Whether prompts can be read in one call. A single one always can, if need be in several."""
        _, columns = self._forward.padded(1, max(len(request.prompt_ids) for request in requests))
        alike = len({request.adapter for request in requests}) == 1 and all(map(self._shares, requests))
        return len(requests) == 1 or (alike and columns * len(requests) <= CHUNK)

    def _shares(self, request: Request) -> bool:
        """Whether a request may share a batch."""
        return request.longest <= self._forward.shared_length

    def _fit(self, requests: Sequence[Request]) -> bool:
        """Whether there is memory for requests beside what is under way; where nothing is, any single one is tried.

        How much a token needs is known once the first prompt has been read.
        """
        single = not self._lanes and len(requests) == 1
        if self._position_bytes is None:
            return single
        batch = self._batch(requests[0].adapter) if self._shares(requests[0]) else None
        together = [*requests, *(batch.requests if batch else ())]
        rows, columns = room(*self._forward.padded(len(together), max(request.longest for request in together)))
        growth = rows * columns * self._position_bytes - (batch.bytes_held if batch else 0)
        if self._graphs is not None and growth > free_memory() + unused_memory():
            self._graphs.release_idle()
        return single or growth <= free_memory() + unused_memory()

    def _batch(self, adapter: str | None) -> Batch | None:
        return next((lane for lane in self._lanes if isinstance(lane, Batch) and lane.adapter == adapter), None)

    def _read(self, prompts: Prompts) -> None:
        """Read a chunk; after the last one the requests have their first id, and go on in a lane."""
        with _failing(prompts.requests):
            self._adapters.use(prompts.adapter)
            logits = prompts.step()
            if logits is None:
                return
            self._position_bytes = position_bytes(prompts.cache)
            for request in prompts.requests:
                if not request.limit:  # scoring was all
                    request.finish("length")
            self._sample(prompts, logits)
        self._prompts = None
        for row, request in enumerate(prompts.requests):
            with _failing([request]):
                self._join(prompts, row, request)

    def _join(self, prompts: Prompts, row: int, request: Request) -> None:
        """Go on with an answer whose prompt has been read."""
        if request.ended:
            return
        if not self._shares(request):
            self._lanes.append(Alone(self._forward, request, prompts.cache))
            return
        batch = self._batch(request.adapter)
        if batch is None:
            batch = Batch(self._forward, request.adapter, self._graphs)
            self._lanes.append(batch)
        batch.join(request, prompts.cache, row, prompts.padding[row])

    def _go_on(self, lane: Lane) -> None:
        """One more id of every answer in a lane."""
        _end_cancelled(lane.requests)
        _keep_live(lane)
        if not lane.requests:
            return
        with _failing(lane.requests):
            self._adapters.use(lane.adapter)
            self._sample(lane, lane.step())
        _keep_live(lane)

    def _sample(self, lane: Lane | Prompts, logits: torch.Tensor) -> None:
        """Give each request its next id, or its failure."""
        results = lane.sampler.sample(logits, [request.sampler for request in lane.requests])
        for request, result in zip(lane.requests, results, strict=True):
            with _failing([request]):
                if isinstance(result, ArrieroError):
                    raise result
                if not request.ended:
                    request.accept(result, self._stop_token_ids)


def _keep_live(lane: Lane) -> None:
    live = [row for row, request in enumerate(lane.requests) if not request.ended]
    if len(live) < len(lane.requests):
        lane.keep(live)


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
        if _is_memory(error):
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
        torch.cuda.empty_cache()


def _is_memory(error: Exception) -> bool:
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
