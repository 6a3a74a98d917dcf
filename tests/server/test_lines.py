"""Streams are read by lines, and clients differ in what ends one."""

from __future__ import annotations

import json

import httpx
import pytest

HI = [{"role": "user", "content": "hi"}]
BREAKS = "a\u0085b\u2028c\u2029d"
WAYS = [
    ("/api/chat", {"messages": HI}),
    ("/api/generate", {"prompt": "hi"}),
    ("/v1/messages", {"messages": HI}),
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), WAYS, ids=[path for path, _ in WAYS])
def test_no_character_of_an_answer_ends_a_line(serve, path, body):
    """Unicode's own line breaks went out raw: httpx's and requests' iter_lines cut there, Ollama's client failed."""
    served = serve(BREAKS)
    lines = []
    with httpx.stream(
        "POST", served.url + path, json={"model": "tiny", "stream": True, **body}, timeout=30
    ) as response:
        for line in response.iter_lines():
            if line and not line.startswith("event: "):
                lines.append(line.removeprefix("data: "))
    objects = [json.loads(line) for line in lines if line != "[DONE]"]
    texts = json.dumps(objects, ensure_ascii=False)
    assert all(character in texts for character in BREAKS)
