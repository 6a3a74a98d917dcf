"""The client of other servers: how it reads their streams. What it does besides is in tests/langchain and tests/web."""

from __future__ import annotations

import json

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from arriero.remote import EventReader, Server
from tests.server.conftest import serve  # noqa: F401  a fixture

CHUNKS = [{"text": "a\x85b\u2028c\u2029骆"}, {"text": "d"}]


def stream(end: str) -> bytes:
    """The chunks as server-sent events, their characters as they are; nothing ends the last line."""
    data = [*(json.dumps(chunk, ensure_ascii=False) for chunk in CHUNKS), "[DONE]"]
    return (end * 2).join(f"data: {each}" for each in data).encode()


lines_ending = pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])


@lines_ending
async def test_lines_end_at_line_breaks_only(serve, scripted_chat, end):  # noqa: F811
    """An answer with U+0085, U+2028 or U+2029 broke off: its lines were split there too, as Python splits text."""

    async def answered(_) -> Response:
        return Response(stream(end), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", answered, methods=["POST"])])
    server = Server(serve(chat=scripted_chat("abc"), app=app).url)
    assert list(server.chunks({})) == CHUNKS
    assert [chunk async for chunk in server.achunks({})] == CHUNKS


@lines_ending
def test_the_bytes_may_be_cut_anywhere(end):
    whole = stream(end) + end.encode()
    for cut in range(len(whole) + 1):
        reader = EventReader()
        assert [*reader.read(whole[:cut]), *reader.read(whole[cut:])] == CHUNKS
        assert reader.ended
