"""The page without a model of its own: a small server on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from arriero.errors import ArrieroError
from arriero.web import mount
from arriero.web.backend import Backend
from arriero.web.state import Site

HOSTS = ["localhost", "127.0.0.1"]  # a page of another site may have a name that leads here


def run(backend: Backend, listener: socket.socket, opened: Callable[[], None]) -> None:
    """Serve the page over `backend` until Ctrl-C; `opened` is called once it answers."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        opened()  # the listener takes connections already
        yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    mount(app, Site(backend))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning", access_log=False))
    with suppress(SystemExit):  # uvicorn's, where the application cannot start
        server.run([listener])
    if not server.started:
        raise ArrieroError("the page could not be started, for the reason logged above")
