"""The server's life: it listens at once, loads the model beside that, and finishes what it has begun before it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from arriero.errors import ArrieroError
from arriero.server.app import Application
from arriero.server.models import Models

log = logging.getLogger(__name__)
CANCEL_SECONDS = 5  # for the errors of broken off answers to reach their clients


class Server(uvicorn.Server):
    """uvicorn, which on SIGTERM or Ctrl-C refuses new work and lets what is in flight end, for a limited time.

    A second signal cancels the answers at once, a third does not wait until their clients have the error. Uvicorn
    would raise the signals again when it is done; here they are only kept, as `ended_by`, for there is more to close.
    """

    def __init__(self, config: uvicorn.Config, app: Application, drain_seconds: float) -> None:
        super().__init__(config)
        self.ended_by: int | None = None
        self._service = app.service
        self._drain_seconds = drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hurry = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal, of either kind."""
        self.force_exit = self._hurry.is_set()
        if self.ended_by is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hurry.set)
        self.ended_by = sig
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then uvicorn's own."""
        service = self._service
        service.drain()
        ended = asyncio.ensure_future(service.admission.idle())
        if not ended.done() and service.admission.running:
            log.info("finishing %d answers, at most %g seconds", service.admission.running, self._drain_seconds)
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((ended, hurry), timeout=self._drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            running = service.admission.running
            service.cancel_all()
            log.warning("breaking off %d answers", running)
            await asyncio.wait((ended,), timeout=CANCEL_SECONDS)
        for waiting in (ended, hurry):
            waiting.cancel()
        await super().shutdown(sockets)


def run(
    app: Application,
    listener: socket.socket,
    load: Callable[[], Models],
    opened: Callable[[Models], None],
    *,
    tls: tuple[Path, Path | None] | None = None,
    drain_seconds: float = 30.0,
) -> int | None:
    """Serve `app` on `listener` until a signal comes; the models that `load` makes are closed then.

    `load` runs beside the server, which until then answers 503; `opened` is called once it answers. `tls` is a
    certificate file and its key file. From SIGTERM or SIGINT on new work gets 503, what was taken on is finished, and
    what is not after `drain_seconds`, or when a second signal comes, ends with an error. Raises what `load` raises,
    and ArrieroError where the application cannot start.
    Returns the signal, so that the caller can end the process by it: a loader that is still at work in a library's
    own code would not let it end otherwise.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=CANCEL_SECONDS,
        ssl_certfile=tls[0] if tls is not None else None,
        ssl_keyfile=tls[1] if tls is not None else None,
    )
    server = Server(config, app, drain_seconds)
    loaded: list[Models] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            loaded.append(load())
            app.service.open(loaded[0])
            opened(loaded[0])
        except BaseException as error:  # raised by the thread that waits for it
            failed.append(error)
            server.should_exit = True

    threading.Thread(target=work, name="loader", daemon=True).start()
    try:
        with contextlib.suppress(SystemExit):  # uvicorn's, where the application cannot start
            server.run(sockets=[listener])
    finally:
        listener.close()  # uvicorn does so, unless it fails at startup
        for models in loaded:
            models.close()
    if failed and server.ended_by is None:
        raise failed[0]
    if not server.started and server.ended_by is None:
        raise ArrieroError("the server could not start, for the reason logged above")
    return server.ended_by


def listen(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any free one, before anything else, so that one in use is an error at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # requests that come before the server is up wait instead of being refused
    except (OSError, UnicodeError) as error:  # the latter for what can be no name
        listener.close()
        raise ArrieroError(
            f"cannot listen on {host} port {port}: {error}",
            hint=f"another port: arriero serve --port {port % 65535 + 1}",
        ) from error
    return listener
