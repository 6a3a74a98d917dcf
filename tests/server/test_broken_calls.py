"""Calls whose arguments are no JSON object, on the APIs that send arguments as objects."""

from __future__ import annotations

import json

import httpx
import pytest
from pydantic_core import from_json

from tests.conftest import TOOL_TEMPLATE

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ANTHROPIC, OLLAMA = "/v1/messages", "/api/chat"
TOOLS = {
    ANTHROPIC: {"name": "weather", "input_schema": SCHEMA},
    OLLAMA: {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
}
BROKEN = [
    '{"a": True}', '{"a": None}', '{"a": 1,}', r'{"a": "C:\dir"}', r'{"a": "\ud800"}', '{"a": NaN}', '{"a": 1e999}',
    f'{{"a": {"9" * 5000}}}', '{"a": ' * 300 + "1" + "}" * 300,
]  # fmt: skip


def call(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'


@pytest.fixture
def called(serve, scripted_chat):
    """`called(answer, path, …)`: the arguments of the call in it as a client has them, whole and streamed."""

    def ask(answer: str, path: str, limit: int = 8000, **more: object) -> list[object]:
        served = serve(chat=scripted_chat(answer, template=TOOL_TEMPLATE))
        limits = {"max_tokens": limit} if path == ANTHROPIC else {"options": {"num_predict": limit}}
        body = {"model": "tiny", "messages": HI, "tools": [TOOLS[path]], **limits, **more}
        found = []
        for stream in (False, True):
            response = httpx.post(served.url + path, json=body | {"stream": stream}, timeout=30)
            assert response.status_code == 200, response.text
            assert not served.raised
            found.append((_anthropic if path == ANTHROPIC else _ollama)(response.text, stream))
        return found

    return ask


def _anthropic(text: str, stream: bool) -> object:
    if not stream:
        [block] = json.loads(text)["content"]
        return block["input"]
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
    assert events[-1]["type"] == "message_stop", events[-1]
    [begun] = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    sent = "".join(event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta")
    # as Anthropic's client puts a block together: what it cannot read it raises, in the middle of the stream
    return from_json(sent, allow_partial=True) if sent else begun["input"]


def _ollama(text: str, stream: bool) -> object:
    lines = [json.loads(line) for line in text.split("\n") if line]
    assert lines[-1].get("done"), lines[-1]
    assert stream or len(lines) == 1
    [made] = [made for line in lines for made in line["message"].get("tool_calls", ())]
    return made["function"]["arguments"]


@pytest.mark.parametrize("arguments", BROKEN, ids=lambda text: text[:14])
@pytest.mark.parametrize("path", [ANTHROPIC, OLLAMA])
def test_arguments_that_are_no_json_arrive_as_what_the_model_wrote(called, path, arguments):
    """They were parsed without a net: whole answers were a 500, and streams broke in the middle."""
    assert called(call(arguments), path) == [{"INVALID_JSON": arguments}] * 2


@pytest.mark.parametrize(("limit", "arguments"), [(20, {}), (60, {}), (68, {"city": "Cusco"})])
def test_a_demanded_call_that_was_cut_off_has_what_is_whole(called, limit, arguments):
    """Cut off before its arguments had begun it was a 500, each time."""
    answer = call('{"city": "Cusco", "day": 1}')
    assert called(answer, ANTHROPIC, limit, tool_choice={"type": "any"}) == [arguments] * 2


def test_a_call_that_was_cut_off_has_what_is_whole_on_ollamas_path(called):
    assert called(call('{"city": "Cusco", "day": 1}'), OLLAMA, 68) == [{"city": "Cusco"}] * 2
