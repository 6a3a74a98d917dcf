"""A real uvicorn server in a thread, over a scripted chat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from arriero.chat import Chat
from arriero.server import create_app


class PromptServer(uvicorn.Server):
    """It ends as soon as it should: uvicorn's own looks every 0.1 s and then waits as long, 54 s of these tests.

    `arriero serve` ends by uvicorn's own: tests/server/test_lifecycle.py.
    """

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for each in (*self.servers, *(sockets or ())):
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.005)
        for server in self.servers:
            await server.wait_closed()


class Served:
    """A running server: `url` is where, `chat` what it serves, `raised` what the app let through to uvicorn."""

    def __init__(self, chat: Chat, app: ASGIApp) -> None:
        self.chat = chat
        self.raised: list[BaseException] = []
        self._app = app
        self._ended = threading.Semaphore(0)
        listener = socket.create_server(("127.0.0.1", 0))  # connections queue here until the server is up
        self.address: tuple[str, int] = listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        config = uvicorn.Config(self._counted, interface="asgi3", lifespan="off", log_config=None)
        self._server = PromptServer(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            self.raised.append(error)
            raise
        finally:
            self._ended.release()

    def wait_for_end(self) -> None:
        """Return when the server is done with one more request, answered or not."""
        assert self._ended.acquire(timeout=30), "the request is still being worked on"

    def stop(self) -> None:
        """Let what is held back go on, and end the server."""
        self.chat.close()
        self._server.should_exit = True
        self._thread.join()


def remade(chat: Chat, kind: type[Chat] = Chat, *, adapter: str | None = None, temperature: float = 0.0) -> Chat:
    """The same chat as another class, or with an adapter of that name or another default temperature."""
    defaults = replace(chat.defaults, temperature=temperature)
    loaded = chat.engine.load_adapter(Path(adapter)) if adapter is not None else None
    return kind(chat.engine, chat.renderer, model="tiny", adapter=loaded, window=chat.window, defaults=defaults)


@pytest.fixture
def serve(scripted_chat) -> Iterator[Callable[..., Served]]:
    """Serve a scripted chat: `serve("answer", gate=3)`, or any other app around one: `serve(chat=chat, app=app)`."""
    running: list[Served] = []

    def start(*answers: str, gate: int | None = None, chat: Chat | None = None, app: ASGIApp | None = None) -> Served:
        chat = scripted_chat(*answers, gate=gate) if chat is None else chat
        running.append(Served(chat, create_app(chat) if app is None else app))
        return running[-1]

    yield start
    for served in running:
        served.stop()


@pytest.fixture
def openai_client(serve, scripted_chat) -> Iterator[Callable[..., tuple[openai.OpenAI, Any]]]:
    """OpenAI's client of a server over scripted answers: `openai_client("first", template=…)` -> (client, engine)."""
    with contextlib.ExitStack() as clients:

        def build(*answers: str, **options: Any) -> tuple[openai.OpenAI, Any]:
            chat = scripted_chat(*answers, **options)
            client = openai.OpenAI(base_url=f"{serve(chat=chat).url}/v1", api_key="none", max_retries=0)
            return clients.enter_context(client), chat.engine

        yield build


@pytest.fixture
def raw_post() -> Iterator[Callable[[Served, str, object], socket.socket]]:
    """Send a POST and leave its connection in the test's hands: `raw_post(served, "/", body).close()`."""
    connections: list[socket.socket] = []

    def post(served: Served, path: str, body: object) -> socket.socket:
        content = json.dumps(body).encode()
        connections.append(socket.create_connection(served.address, timeout=30))
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(content)}\r\n\r\n"
        connections[-1].sendall(head.encode() + content)
        return connections[-1]

    yield post
    for connection in connections:
        connection.close()


@pytest.fixture
def app_of(scripted_chat) -> Iterator[Callable[..., tuple[TestClient, Chat]]]:
    """The application without a server, for what needs no connection: `client, chat = app_of("answer")`."""
    with contextlib.ExitStack() as clients:

        def make(*answers: str) -> tuple[TestClient, Chat]:
            chat = scripted_chat(*answers)
            return clients.enter_context(TestClient(create_app(chat))), chat

        yield make


@pytest.fixture
def client_of(scripted_chat):
    """A client of an app over a scripted chat, made with these options: `client_of(keys=KEYS)`."""
    with contextlib.ExitStack() as clients:

        def make(*answers: str, chat=None, host="testserver", **options) -> TestClient:
            app = create_app(chat or scripted_chat(*answers or ["hello"]), **options)
            client = TestClient(app, base_url=f"http://{host}", raise_server_exceptions=False)
            return clients.enter_context(client)

        yield make
