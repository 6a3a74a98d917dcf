"""What real clients send: what changes nothing is taken and named, what would change the answer is refused by name."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arriero.server.lenient import LONGEST_HEADER
from arriero.server.models import Models
from tests.conftest import TOOL_TEMPLATE, ids_of
from tests.server.test_errors import error_of

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
    (answered(reasoning_content="hm"), None),
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


# Every one would change the answer, or what is told of it; the name is the parameter's.
REFUSED = [
    *((CHAT, {name: ["x"]}, name) for name in ("guided_grammar", "guided_json", "guided_regex", "guided_choice")),
    *((CHAT, {name: 2}, name) for name in ("min_tokens", "best_of", "n_probs", "typical_p", "repeat_penalty")),
    *((CHAT, {name: True}, name) for name in ("ignore_eos", "use_beam_search", "echo", "add_special_tokens")),
    *((CHAT, {name: {}}, name) for name in ("audio", "web_search_options", "moderation", "json_schema")),
    *((CHAT, {name: [{}]}, name) for name in ("functions", "logits_processors", "documents")),
    (CHAT, {"function_call": {"name": "f"}}, "function_call"),
    (CHAT, {"chat_template": "x"}, "chat_template"),
    (CHAT, {"skip_special_tokens": False}, "skip_special_tokens"),
    (CHAT, {"prompt_logprobs": 0}, "prompt_logprobs"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (CHAT, answered(audio={"id": "a"}), "messages[1].audio"),
    (CHAT, answered(function_call={"name": "f", "arguments": "{}"}), "messages[1].function_call"),
    *(
        (CHAT, answered(content=[{"type": kind, kind: {}}]), "messages[1].content[0].type")
        for kind in ("image_url", "input_audio", "file")
    ),
    (CHAT, {"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    (COMPLETIONS, {"suffix": "x"}, "suffix"),
    (COMPLETIONS, {"min_tokens": 2}, "min_tokens"),
    (COMPLETIONS, {"add_special_tokens": False}, "add_special_tokens"),
    (TOKENIZE, {"documents": [{}]}, "documents"),
    (TOKENIZE, {"return_token_strs": True}, "return_token_strs"),
    (CHAT, {"chat_template_kwargs": {"a": 1, "messages": []}}, None),
    # exactly their types
    (CHAT, {"max_tokens": 16.5}, "max_tokens"),
    (CHAT, {"max_tokens": True}, "max_tokens"),
    (CHAT, {"temperature": "0.5"}, "temperature"),
    (CHAT, {"top_logprobs": "1"}, "top_logprobs"),
    (CHAT, {"chat_template_kwargs": []}, "chat_template_kwargs"),
    (COMPLETIONS, {"prompt": [16.5]}, "prompt"),
]


@pytest.fixture
def client(client_of, scripted_chat):
    return client_of(chat=scripted_chat("hello", template=TOOL_TEMPLATE))


def named(response) -> list[str]:
    """What the header says was ignored."""
    return [unquote(name) for name in response.headers.get("x-arriero-ignored", "").split(", ") if name]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("change", "ignored"), SEEN, ids=map(str, range(len(SEEN))))
def test_what_clients_were_seen_to_send_is_taken(client, change, ignored, stream):
    """All of it was refused with 400."""
    response = client.post(CHAT, json=BODIES[CHAT] | {"stream": stream} | change)
    assert response.status_code == 200, response.text
    assert named(response) == ([] if ignored is None else [ignored])


@pytest.mark.parametrize(("path", "change", "param"), REFUSED)
def test_what_would_change_the_answer_is_refused_by_name(client, path, change, param):
    error = error_of(client.post(path, json=BODIES[path] | change), 400)
    assert error["param"] == param
    assert (param or "messages") in error["message"]
    assert client.app.state.service.models.default.chat.engine.asked == []


def test_the_only_value_that_is_supported_is_told(client):
    error = error_of(client.post(CHAT, json=BODIES[CHAT] | {"skip_special_tokens": False}), 400)
    assert error["message"] == "the field skip_special_tokens is supported only as true, got False"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE])
@pytest.mark.parametrize("model", [{}, {"model": None}])
def test_a_model_that_is_not_named_is_the_default(client_of, scripted_chat, embedder, path, model):
    """It was a missing field; and fields that are not known are taken on every path."""
    client = client_of("x")
    client.app.service.open(Models(scripted_chat("x"), embedder=embedder))
    body = {name: value for name, value in BODIES[path].items() if name != "model"}
    response = client.post(path, json=body | model | {"a_new_field": 1, "user": "ana", "null": None})
    assert response.status_code == 200, response.text
    assert response.json().get("model") in (None, "tiny", "words")
    assert named(response) == ["a_new_field", "user"]


def test_whole_numbers_may_be_written_with_a_point(client):
    """JSON has one kind of number; `16.0` was no integer."""
    engine = client.app.state.service.models.default.chat.engine
    assert client.post(CHAT, json=BODIES[CHAT] | {"max_completion_tokens": 3.0, "max_tokens": 2}).status_code == 200
    assert client.post(COMPLETIONS, json={"prompt": [7.0, 8], "max_tokens": 1.0}).status_code == 200
    assert client.post("/detokenize", json={"tokens": [104.0]}).status_code == 200
    (_, sampling, limit), (ids, _, other_limit) = engine.asked
    assert (sampling.max_new_tokens, limit) == (3, 3), "max_completion_tokens goes before max_tokens"
    assert (ids, other_limit) == ([7, 8], 1)
    assert all(type(token) is int for token in ids)


def test_an_answer_that_was_a_refusal_is_shown_as_what_was_said(client):
    chat = client.app.state.service.models.default.chat
    turns = [HELLO, {"role": "assistant", "content": "No."}, HELLO]
    for turn in ({"content": None, "refusal": "No."}, {"content": [{"type": "refusal", "refusal": "No."}]}):
        assert client.post(CHAT, json=BODIES[CHAT] | answered(**turn)).status_code == 200
        assert chat.engine.asked[-1][0] == chat.render(turns)


def test_what_is_ignored_is_named_once_in_the_log_and_always_in_the_header(client, caplog):
    with caplog.at_level(logging.INFO, "arriero.server.lenient"):
        responses = [client.post(CHAT, json=BODIES[CHAT] | {"field_of_this_test": 1}) for _ in range(2)]
    assert [named(response) for response in responses] == [["field_of_this_test"]] * 2
    lines = [entry.getMessage() for entry in caplog.records if "field_of_this_test" in entry.getMessage()]
    assert lines == [f"{CHAT}: the field 'field_of_this_test' is taken and has no effect"]


def test_a_page_of_an_allowed_site_may_read_the_header(client_of):
    client = client_of(origins=["https://a.b"])
    response = client.post(CHAT, json=BODIES[CHAT] | {"more": 1}, headers={"origin": "https://a.b"})
    assert named(response) == ["more"]
    assert "x-arriero-ignored" in response.headers["access-control-expose-headers"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), st.integers(), max_size=60))
def test_any_names_make_a_header_that_can_be_sent(client, extra):
    """Names are the client's: line breaks, commas, other scripts, thousands of them."""
    extra = {f"?{name}": value for name, value in extra.items()}  # none that is declared
    response = client.post(CHAT, json=BODIES[CHAT] | extra)
    assert response.status_code == 200, response.text
    header = response.headers.get("x-arriero-ignored", "")
    assert len(header) <= LONGEST_HEADER + len(", ...")
    assert re.fullmatch(r"[\x21-\x7e]+(, [\x21-\x7e]+)*", header) or not extra
    whole = not header.endswith(", ...")
    assert set(named(response)) - {"..."} <= {re.sub(r"\[\d+\]", "", name)[:80] for name in extra}
    assert not whole or len(named(response)) == len({re.sub(r"\[\d+\]", "", name)[:80] for name in extra})


def test_a_header_of_many_names_ends_with_dots(client):
    response = client.post(CHAT, json=BODIES[CHAT] | {f"field_{number:04}": 1 for number in range(500)})
    assert named(response)[-1] == "..."
    assert LONGEST_HEADER - 20 < len(response.headers["x-arriero-ignored"]) <= LONGEST_HEADER + len(", ...")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tmperature": 0.5}, "tmperature"),
        ({"priority": 1}, "priority"),
        (answered(opts={}), "messages[1].opts"),
        (called(parsed_arguments={}), "messages[1].tool_calls[0].function.parsed_arguments"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
        ({"store": True, "metadata": {}, "user": "ana", "service_tier": "flex", "verbosity": "low"}, None),
        (answered(name="ana", annotations=[{}], refusal=None, audio=None), None),
        ({"more": None}, None),
    ],
)
def test_a_strict_server_refuses_what_openais_api_does_not_have(client_of, change, param):
    response = client_of(strict=True).post(CHAT, json=BODIES[CHAT] | change)
    if param is None:
        assert response.status_code == 200, response.text
        return
    error = error_of(response, 400)
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    assert error["message"] == f"the field {param} is not supported"


THINKING = TOOL_TEMPLATE + "{% if thinking is defined %}{{ thinking }}{% endif %}"


def test_chat_template_kwargs_reach_the_template(client_of, scripted_chat):
    """They were refused."""
    chat = scripted_chat("x", template=THINKING)
    client = client_of(chat=chat)
    body = {"messages": [HELLO], "chat_template_kwargs": {"thinking": "off</s>"}}
    assert client.post(CHAT, json=body).status_code == 200
    assert chat.engine.asked[0][0] == [*chat.render([HELLO]), *ids_of("off</s>")], "and what they hold is text"
    assert client.post(TOKENIZE, json=body).json()["tokens"] == chat.engine.asked[0][0]
    assert error_of(client.post(TOKENIZE, json=body | {"messages": None, "prompt": "x"}), 400)["param"] == (
        "chat_template_kwargs"
    )
