"""What all routes share: the models, admission, the API keys, metrics and the access log."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from arriero.chat import Chat, Stream
from arriero.engines import Generation
from arriero.server.access_log import AccessRecord
from arriero.server.admission import Admission, Limits, Permit
from arriero.server.admitted_chat import AdmittedChat, SlotSource
from arriero.server.auth import Keys
from arriero.server.errors import RequestError
from arriero.server.metrics import Metrics
from arriero.server.models import Models, ServedModel
from arriero.server.streaming import MergedStreams, shutdown_error, while_connected

T = TypeVar("T")
State = Literal["ready", "loading", "draining"]
PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds, and seldom of interest


class ServiceOptions(TypedDict, total=False):
    """How requests are handled, by default none of it.

    `log_prompts` writes bodies to the log. `strict` refuses fields that OpenAI's API does not have, on its paths.
    `no_store` keeps no responses, which otherwise lie under ARRIERO_HOME unless their requests say otherwise, and takes
    no files.
    """

    log_prompts: bool
    strict: bool
    no_store: bool


class Service:
    """One server's state. It is "loading" until `open` gives it a model, and refuses work from `drain` on."""

    def __init__(self, limits: Limits, keys: Keys, **options: Unpack[ServiceOptions]) -> None:
        self.admission = Admission(limits)
        self.keys = keys
        self.metrics = Metrics(self.admission)
        self.log_prompts = options.get("log_prompts", False)
        self.strict = options.get("strict", False)
        self.keeps_responses = not options.get("no_store", False)
        self._models: Models | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # the server's, once it runs
        self._cancelled = False
        self._streams: dict[AccessRecord, MergedStreams] = {}
        self._futures: set[asyncio.Future[Any]] = set()  # what is computed beside streams: embeddings
        self._queued: weakref.WeakSet[Generation] = weakref.WeakSet()  # those of AdmittedChats

    @property
    def state(self) -> State:
        """Whether work is taken."""
        if self.admission.draining:
            return "draining"
        return "loading" if self._models is None else "ready"

    @property
    def models(self) -> Models:
        """The models; RequestError 503 while they are loaded."""
        if self._models is None:
            raise _loading()
        return self._models

    def check_ready(self) -> None:
        """RequestError 503 unless the server is ready for work."""
        if self._models is None:
            raise _loading()
        self.admission.refuse_when_draining()

    def open(self, models: Models) -> None:
        """Begin to answer; from any thread."""
        self._models = models

    def drain(self) -> None:
        """Refuse new requests; those that were admitted or wait continue. On the event loop only."""
        self.admission.drain()

    def cancel_all(self) -> None:
        """End all answers that are in flight or wait for slots; their clients get an error."""
        self._cancelled = True
        self.admission.refuse_waiting()
        for streams in list(self._streams.values()):
            streams.cancel_all()
        for generation in list(self._queued):
            generation.cancel()
        for future in self._futures:
            future.cancel()

    async def begin(
        self, request: Request, served: ServedModel, start: Callable[[int], Stream], count: int = 1
    ) -> MergedStreams:
        """The streams `start(0)` to `start(count - 1)` of one request, of which the first piece is already there.

        So what fails early fails here, before a status is sent: a full queue, a prompt that is too long. Waiting ends
        when the client goes away. `start` runs outside the event loop, for it renders the prompt.
        """
        record: AccessRecord = request.scope["record"]
        permit = await self._admit(request, served.name, count)
        generated: list[Stream] = []

        def make() -> None:
            for number in range(count):
                generated.append(start(number))

        streams = MergedStreams(generated, record, self._on_close(permit.release))
        self._streams[record] = streams
        try:
            # Not raced against the disconnect: a thread cannot be cancelled, so its generations would be orphaned.
            await run_in_threadpool(make)
            record.clamped = min((stream.clamped for stream in generated if stream.clamped is not None), default=None)
            if self._cancelled:  # `cancel_all` came while the thread was making them
                streams.cancel_all()
            await while_connected(request.receive, streams.start())
        except BaseException as error:
            streams.failed |= isinstance(error, Exception) and not isinstance(error, ClientDisconnect)
            streams.close()
            raise
        return streams

    async def compute(self, request: Request, name: str, submit: Callable[[], Future[T]]) -> T:
        """The result of what `submit` begins in one slot, for the model `name`; cancelled when the client leaves."""
        permit = await self._admit(request, name, 1)
        future: asyncio.Future[T] | None = None
        try:
            future = asyncio.wrap_future(submit())
            self._futures.add(future)
            return await while_connected(request.receive, future)
        except asyncio.CancelledError:
            if self._cancelled:
                raise shutdown_error() from None
            raise
        finally:
            self._futures.discard(future)
            permit.release()

    async def _admit(self, request: Request, name: str, slots: int) -> Permit:
        """Slots for a request to the model `name`, noted in its record; waiting ends when the client goes away."""
        record: AccessRecord = request.scope["record"]
        record.model = name
        enter = self.admission.enter_background if record.background else self.admission.enter
        permits: list[Permit] = []

        async def take() -> None:
            permits.append(await enter(record.caller.name, slots))

        try:
            await while_connected(request.receive, take())
        except BaseException as error:
            for permit in permits:  # given just before this task was cancelled
                permit.release()
            if isinstance(error, RequestError):
                record.refused = error.code
            raise
        record.queue_s = record.elapsed()
        if not record.background:
            self.metrics.queue.observe(record.queue_s)
        return permits[0]

    def admitted(self, chat: Chat) -> Chat:
        """The same chat for threads of this process: its answers take slots as those over HTTP do."""
        if self.loop is None:
            raise _loading()
        return AdmittedChat(chat, SlotSource(self.admission, self.loop, self._queued))

    def _on_close(self, release: Callable[[], None]) -> Callable[[MergedStreams], None]:
        def on_close(streams: MergedStreams) -> None:
            release()
            del self._streams[streams.record]
            self.metrics.count_streams(streams)

        return on_close

    def finish_request(self, record: AccessRecord, scope: Scope) -> None:
        """Count and log a request that is over; streams that it has failed to close end here."""
        streams = self._streams.get(record)
        if streams is not None:
            streams.close()
        route = getattr(scope.get("route"), "path", None)
        status = record.status or 499
        self.metrics.requests.labels(route or "other", str(status)).inc()
        if record.refused is not None:
            self.metrics.rejected.labels(record.refused).inc()
        # A mounted page has the route "": its many small requests are logged only where they fail.
        quiet = route in PROBES or (scope.get("route") is not None and not route and status < HTTPStatus.BAD_REQUEST)
        record.log(logging.DEBUG if quiet else logging.INFO)


def _loading() -> RequestError:
    return RequestError("the model is still being loaded", status=503, code="loading", retry_after=2)
