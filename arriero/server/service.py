"""What all routes share: the models, the places to answer, the keys, what is measured and logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Scope

from arriero.chat import Chat, Stream
from arriero.server.admission import Admission, Limits
from arriero.server.answer import Answers, while_connected
from arriero.server.errors import RequestError
from arriero.server.keys import Keys
from arriero.server.metrics import Metrics
from arriero.server.models import Models
from arriero.server.record import Record


class Service:
    """One server's state. It is "loading" until `open` gives it a model, and refuses work from `drain` on."""

    def __init__(self, limits: Limits, keys: Keys, *, log_prompts: bool = False) -> None:
        self.admission = Admission(limits)
        self.keys = keys
        self.metrics = Metrics(self.admission)
        self.log_prompts = log_prompts
        self._models: Models | None = None
        self._draining = False
        self._answers: set[Answers] = set()

    @property
    def state(self) -> Literal["loading", "ready", "draining"]:
        """What the server is about."""
        if self._draining:
            return "draining"
        return "loading" if self._models is None else "ready"

    @property
    def models(self) -> Models:
        """The models; RequestError 503 while they are loaded."""
        if self._models is None:
            raise RequestError("the model is still being loaded", status=503, code="loading", retry_after=2)
        return self._models

    def open(self, models: Models) -> None:
        """Begin to answer; from any thread."""
        self._models = models

    def drain(self) -> None:
        """Refuse new work; what has come in goes on. On the event loop only."""
        self._draining = True
        self.admission.drain()

    def break_off(self) -> None:
        """End all answers that are under way; their clients get an error."""
        for answers in list(self._answers):
            answers.break_off()

    async def begin(self, request: Request, chat: Chat, start: Callable[[int], Stream], count: int = 1) -> Answers:
        """Answers to one request, `start(0)` to `start(count - 1)`, of which the first piece is already there.

        So what fails early fails here: there is no room, the prompt is too long, the engine refuses. Waiting ends when
        the client goes away. `start` runs outside the event loop, for it renders the prompt.
        """
        record: Record = request.scope["record"]
        record.model = chat.name
        ticket = await while_connected(request.receive, self.admission.enter(record.caller.name, count))
        record.queue_s = record.elapsed()
        self.metrics.queue.observe(record.queue_s)
        streams: list[Stream] = []

        def make() -> None:
            for number in range(count):
                streams.append(start(number))

        answers = Answers(streams, record, self._left(ticket.leave))
        self._answers.add(answers)
        try:
            # Not raced against the disconnect: a thread cannot be cancelled, and its generations would be nobody's.
            await run_in_threadpool(make)
            await while_connected(request.receive, answers.start())
        except BaseException:
            answers.close()
            raise
        return answers

    def _left(self, leave: Callable[[], None]) -> Callable[[Answers], None]:
        def left(answers: Answers) -> None:
            leave()
            self._answers.discard(answers)
            self.metrics.answered(answers)

        return left

    def ended(self, record: Record, scope: Scope) -> None:
        """Count and log a request that is over."""
        route = getattr(scope.get("route"), "path", None) or "other"
        self.metrics.requests.labels(route, str(record.status or 499)).inc()
        record.log()
