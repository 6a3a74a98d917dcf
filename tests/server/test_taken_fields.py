"""What real clients send: what changes nothing is taken and named, what would change the answer is refused by name."""

from __future__ import annotations

import logging
from urllib.parse import unquote

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.embeddings import Embedder
from arriero.server import create_app
from arriero.server.models import Models
from tests.conftest import TOOL_TEMPLATE

CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"
HELLO = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "weather"}}
BODIES = {
    CHAT: {"model": "tiny", "messages": [HELLO]},
    COMPLETIONS: {"model": "tiny", "prompt": "a"},
    EMBEDDINGS: {"input": "hi"},
    TOKENIZE: {"messages": [HELLO]},
}


def answered(**fields):
    """A conversation with an answer that comes back with what its client's library put into it."""
    return {"messages": [HELLO, {"role": "assistant", "content": "x"} | fields, HELLO]}


def called(**fields):
    """The same with a call of a tool."""
    call = {**CALL, "function": CALL["function"] | fields}
    return {"messages": [HELLO, {"role": "assistant", "tool_calls": [call]}, HELLO]}


# Every one was refused once, with what the header says of it where it was not obeyed.
SEEN = [
    (answered(id="msg_1"), "messages.id"),
    (answered(opts={}), "messages.opts"),
    (answered(parsed={"a": 1}), "messages.parsed"),
    (answered(annotations=[{"type": "url_citation"}]), "messages.annotations"),
    (answered(cache_control={"type": "ephemeral"}), "messages.cache_control"),
    (answered(reasoning_content="hm"), "messages.reasoning_content"),
    (answered(provider_specific_fields={"a": None}), "messages.provider_specific_fields"),
    (answered(content=[{"type": "text", "text": "x", "annotations": []}]), "messages.content.annotations"),
    (called(parsed_arguments={}), "messages.tool_calls.function.parsed_arguments"),
    ({"tools": [TOOL | {"cache_control": {}}]}, "tools.cache_control"),
    ({"tools": [{"type": "function", "function": {"name": "t", "defer": 1}}]}, "tools.function.defer"),
    ({"response_format": {"type": "text", "more": 1}}, "response_format.more"),
    ({"stream_options": {"more": 1}, "stream": True}, "stream_options.more"),
    ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options"),
    ({"stream_options": {"include_obfuscation": True}, "stream": True}, "stream_options.include_obfuscation"),
    ({"metadata": {"a": "b"}}, "metadata"),
    ({"store": True}, "store"),
    ({"reasoning_effort": "low"}, "reasoning_effort"),
    ({"verbosity": "low"}, "verbosity"),
    ({"safety_identifier": "x"}, "safety_identifier"),
    ({"prompt_cache_key": "x"}, "prompt_cache_key"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"service_tier": "priority"}, "service_tier"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"include": ["usage"]}, "include"),
    ({"truncation": "auto"}, "truncation"),
    ({"modalities": ["text"]}, None),
    ({"background": False}, "background"),
    ({"ignore_eos": False}, None),
    ({"skip_special_tokens": True}, None),
    ({"min_tokens": 0}, None),
    ({"cache_prompt": True}, "cache_prompt"),
    ({"keep_alive": "5m"}, "keep_alive"),
    ({"num_ctx": 4096}, "num_ctx"),
    ({"priority": 0}, "priority"),
    ({"usage": {"include": True}}, "usage"),
    ({"tmperature": 0.5}, "tmperature"),
    ({"functions": [], "function_call": None, "audio": None, "guided_json": None}, None),
    ({"max_tokens": 3, "max_completion_tokens": 3}, None),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ({"max_tokens": 16.0, "seed": 7.0, "n": 1.0, "top_k": 2.0}, None),
    ({"model": None}, None),
    ({"chat_template_kwargs": {"enable_thinking": False}}, None),
    (answered(refusal="No."), None),
]


@pytest.fixture
def client(client_of, scripted_chat):
    return client_of(chat=scripted_chat("hello", template=TOOL_TEMPLATE))


def named(response) -> list[str]:
    """What the header says was ignored."""
    return [unquote(name) for name in response.headers.get("x-arriero-ignored", "").split(", ") if name]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "ignored"), SEEN, ids=[f"{number}" for number in range(len(SEEN))])
def test_what_clients_were_seen_to_send_is_taken(client, change, ignored, stream):
    """All of it was refused with 400."""
    response = client.post(CHAT, json=BODIES[CHAT] | {"stream": stream} | change)
    assert response.status_code == 200, response.text
    expected = (
        [] if ignored is None or (ignored == "stream_options" and stream and "stream" not in change) else [ignored]
    )
    assert named(response) == expected
