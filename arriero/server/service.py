"""What all routes share: the models, the places to answer, the keys, what is measured and logged."""

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
from arriero.server.access_log import Record
from arriero.server.admission import Admission, Limits, Ticket
from arriero.server.admitted_chat import AdmittedChat, Door
from arriero.server.auth import Keys
from arriero.server.errors import RequestError
from arriero.server.metrics import Metrics
from arriero.server.models import Models, Served
from arriero.server.streaming import Answers, broken_off, while_connected

T = TypeVar("T")
PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds, and seldom of interest


class Handling(TypedDict, total=False):
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

    def __init__(self, limits: Limits, keys: Keys, **handling: Unpack[Handling]) -> None:
        self.admission = Admission(limits)
        self.keys = keys
        self.metrics = Metrics(self.admission)
        self.log_prompts = handling.get("log_prompts", False)
        self.strict = handling.get("strict", False)
        self.keeps_responses = not handling.get("no_store", False)
        self._models: Models | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # the server's, once it runs
        self._broken_off = False
        self._answers: dict[Record, Answers] = {}
        self._computing: set[asyncio.Future[Any]] = set()  # what is no answer, but also breaks off
        self._queued: weakref.WeakSet[Generation] = weakref.WeakSet()  # of this process's own threads

    @property
    def state(self) -> Literal["loading", "ready", "draining"]:
        """What the server is about."""
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
        """Refuse new work; what has come in goes on. On the event loop only."""
        self.admission.drain()

    def break_off(self) -> None:
        """End all answers that are under way or wait for their turn; their clients get an error."""
        self._broken_off = True
        self.admission.refuse_waiting()
        for answers in list(self._answers.values()):
            answers.break_off()
        for generation in list(self._queued):
            generation.cancel()
        for computing in self._computing:
            computing.cancel()

    async def begin(self, request: Request, served: Served, start: Callable[[int], Stream], count: int = 1) -> Answers:
        """Answers to one request, `start(0)` to `start(count - 1)`, of which the first piece is already there.

        So what fails early fails here: there is no room, the prompt is too long, the engine refuses. Waiting ends when
        the client goes away. `start` runs outside the event loop, for it renders the prompt.
        """
        record: Record = request.scope["record"]
        ticket = await self._enter(request, served.name, count)
        streams: list[Stream] = []

        def make() -> None:
            for number in range(count):
                streams.append(start(number))

        answers = Answers(streams, record, self._left(ticket.leave))
        self._answers[record] = answers
        try:
            # Not raced against the disconnect: a thread cannot be cancelled, and its generations would be nobody's.
            await run_in_threadpool(make)
            record.clamped = min((stream.clamped for stream in streams if stream.clamped is not None), default=None)
            if self._broken_off:
                answers.break_off()
            await while_connected(request.receive, answers.start())
        except BaseException as error:
            answers.failed |= isinstance(error, Exception) and not isinstance(error, ClientDisconnect)
            answers.close()
            raise
        return answers

    async def compute(self, request: Request, name: str, submit: Callable[[], Future[T]]) -> T:
        """The result of what `submit` begins in one place for the model `name`; cancelled when the client goes away."""
        ticket = await self._enter(request, name, 1)
        computing: asyncio.Future[T] | None = None
        try:
            computing = asyncio.wrap_future(submit())
            self._computing.add(computing)
            return await while_connected(request.receive, computing)
        except asyncio.CancelledError:
            if self._broken_off:
                raise broken_off() from None
            raise
        finally:
            self._computing.discard(computing)
            ticket.leave()

    async def _enter(self, request: Request, name: str, places: int) -> Ticket:
        """Places for a request to the model `name`, noted in its record; waiting ends when the client goes away."""
        record: Record = request.scope["record"]
        record.model = name
        enter = self.admission.enter_background if record.background else self.admission.enter
        try:
            ticket = await while_connected(request.receive, enter(record.caller.name, places))
        except RequestError as error:
            record.refused = error.code
            raise
        record.queue_s = record.elapsed()
        if not record.background:
            self.metrics.queue.observe(record.queue_s)
        return ticket

    def admitted(self, chat: Chat) -> Chat:
        """The same chat for who asks from a thread of this process: its answers take slots as those over HTTP do."""
        if self.loop is None:
            raise _loading()
        return AdmittedChat(chat, Door(self.admission, self.loop, self._queued))

    def _left(self, leave: Callable[[], None]) -> Callable[[Answers], None]:
        def left(answers: Answers) -> None:
            leave()
            del self._answers[answers.record]
            self.metrics.answered(answers)

        return left

    def ended(self, record: Record, scope: Scope) -> None:
        """Count and log a request that is over; its answers, should it have failed to close them, end here."""
        answers = self._answers.get(record)
        if answers is not None:
            answers.close()
        route = getattr(scope.get("route"), "path", None)
        status = record.status or 499
        self.metrics.requests.labels(route or "other", str(status)).inc()
        if record.refused is not None:
            self.metrics.rejected.labels(record.refused).inc()
        quiet = route in PROBES or (scope.get("route") is not None and not route and status < HTTPStatus.BAD_REQUEST)
        record.log(logging.DEBUG if quiet else logging.INFO)


def _loading() -> RequestError:
    return RequestError("the model is still being loaded", status=503, code="loading", retry_after=2)
