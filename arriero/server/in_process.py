"""Requests of this process to its own application, as an HTTP client would send them, without a connection.

So what they answer, and what they refuse, is what the server answers and refuses.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from arriero.batches import Ask, RowResponse
from arriero.server.auth import Caller

BACKGROUND = "arriero.background"  # in a request's scope, where no client can put anything: who it is sent for


@contextlib.asynccontextmanager
async def in_process_client(app: ASGIApp, caller: Caller | None = None) -> AsyncIterator[Ask]:
    """What asks `app`; with a `caller` in that one's name, below everybody's own requests."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope if caller is None else {**scope, BACKGROUND: caller}, receive, send)

    transport = httpx.ASGITransport(marked, raise_app_exceptions=False)
    unlimited = httpx.Timeout(None)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=unlimited) as client:

        async def ask(url: str, body: dict[str, Any]) -> RowResponse:
            response = await client.post(url, content=json.dumps(body))
            return RowResponse(response.status_code, response.headers["x-request-id"], response.json())

        yield ask
