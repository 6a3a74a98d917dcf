"""Anthropic's messages, in the forms that its documentation and its clients have on the wire."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from arriero.messages import Message, ToolCall
from arriero.server.admission import Limits
from arriero.server.auth import Keys
from tests.conftest import TOOL_TEMPLATE

MESSAGES = "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "tiny", "max_tokens": 100, "messages": HI}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "", "input_schema": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Cusco"}}\n</tool_call>'


@pytest.fixture
def asked(serve, scripted_chat):
    """`post, chat = asked("answer", …)`: `post(**changes)` is the response to a request to a real server."""

    def build(*answers, **options):
        chat = scripted_chat(*answers, template=TOOL_TEMPLATE, **options)
        served = serve(chat=chat)
        return lambda path=MESSAGES, **changes: httpx.post(served.url + path, json=ASK | changes, timeout=30), chat

    return build


def events_of(response: httpx.Response) -> list[dict]:
    """The events of a stream; each is named in its first line as in its data."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    pairs = [event.split("\n") for event in response.text.rstrip("\n").split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in pairs]
    assert [f"event: {event['type']}" for event in events] == [name for name, _ in pairs]
    return events


def fault_of(response: httpx.Response, status: int, kind: str = "invalid_request_error") -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    return body["error"]["message"]


def test_a_text_is_answered(asked):
    post, chat = asked("Hello")
    body = post(system="Be brief.", temperature=0.5, top_p=0.9, top_k=5.0).json()
    assert body.pop("id").startswith("msg_")
    prompt = chat.render([{"role": "system", "content": "Be brief."}, *HI])
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": len(prompt), "output_tokens": 6},
    }
    [(ids, sampling, limit)] = chat.engine.asked
    assert (ids, limit) == (prompt, 100)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)


def test_blocks_are_lines_of_one_turn(asked):
    post, chat = asked("Hello")
    blocks = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}} for text in ("a", "b")]
    post(system=blocks, messages=[{"role": "user", "content": blocks}])
    assert chat.engine.asked[0][0] == chat.render([Message("system", "a\nb"), Message("user", "a\nb")])


@pytest.mark.parametrize(
    ("change", "text", "reason", "stop"),
    [
        ({"max_tokens": 3}, "abc", "max_tokens", None),
        ({"stop_sequences": ["x", "cd"]}, "ab", "stop_sequence", "cd"),
        ({"stop_sequences": ["x"]}, "abcdef", "end_turn", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_why_an_answer_ends(asked, change, text, reason, stop, stream):
    response = asked("abcdef")[0](**change, stream=stream)
    ended = events_of(response)[-2]["delta"] if stream else response.json()
    assert (ended["stop_reason"], ended["stop_sequence"]) == (reason, stop)
    if not stream:
        assert response.json()["content"] == [{"type": "text", "text": text}]


def test_the_events_of_a_stream(asked):
    post, chat = asked(f"See. {CALL}")
    first, *rest = events_of(post(stream=True, tools=[WEATHER]))
    prompt = len(chat.engine.asked[0][0])
    assert first["message"].pop("id").startswith("msg_")
    assert first["message"] == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": prompt, "output_tokens": 0},
    }
    call_id = rest[6]["content_block"].pop("id")
    assert call_id.startswith("call_")
    assert rest == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": letter}}
            for letter in "See."
        ],
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "name": "weather", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"city": "Cusco"}'},
        },
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"input_tokens": prompt, "output_tokens": len(f"See. {CALL}") + 1},
        },
        {"type": "message_stop"},
    ]


def test_a_call_goes_out_and_its_result_comes_back(asked):
    post, chat = asked(CALL, "sunny")
    body = post(tools=[WEATHER]).json()
    [block] = body["content"]
    assert (body["stop_reason"], block["name"], block["input"]) == ("tool_use", "weather", {"city": "Cusco"})
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": "no"}]}
    turns = [
        *HI,
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "…", "signature": "x"}, block]},
        {"role": "user", "content": [result | {"is_error": True}, {"type": "text", "text": "and?"}]},
    ]
    assert post(tools=[WEATHER], messages=turns).json()["content"] == [{"type": "text", "text": "sunny"}]
    call = ToolCall(block["id"], "weather", '{"city": "Cusco"}')
    expected = [
        Message("user", "hi"),
        Message("assistant", "", (call,)),
        Message("tool", "Error: no", tool_call_id=call.id),
        Message("user", "and?"),
    ]
    tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}
    assert chat.engine.asked[1][0] == chat.render(expected, tools=[tool])


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_calls_can_be_switched_off(asked, stream):
    post, _ = asked(f"{CALL}\n{CALL}")
    for off, count in ((False, 2), (True, 1)):
        choice = {"type": "auto", "disable_parallel_tool_use": off}
        response = post(tools=[WEATHER], tool_choice=choice, stream=stream, max_tokens=400)
        blocks = (
            [event["content_block"] for event in events_of(response) if event["type"] == "content_block_start"]
            if stream
            else response.json()["content"]
        )
        assert [block["type"] for block in blocks] == ["tool_use"] * count


@pytest.mark.parametrize(
    ("change", "constrained"),
    [
        ({"tool_choice": {"type": "any"}}, True),
        ({"tool_choice": {"type": "tool", "name": "weather"}}, True),
        ({"tool_choice": {"type": "auto"}}, False),
        ({"tool_choice": {"type": "none"}}, False),
        ({"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}}, True),
    ],
)
def test_what_an_answer_must_be(asked, change, constrained):
    post, chat = asked(CALL)
    assert post(tools=[WEATHER], **change).status_code == 200
    assert (chat.engine.options[0]["constraint"] is not None) == constrained
    shown = "weather" in chat.renderer.tokenizer.decode(chat.engine.asked[0][0])
    assert shown == (change.get("tool_choice", {}).get("type") != "none")


def test_a_prompt_is_counted_and_not_answered(asked):
    post, chat = asked("x")
    body = {"system": "Be brief.", "tools": [WEATHER]}
    counted = post(f"{MESSAGES}/count_tokens", **body).json()
    assert chat.engine.asked == []
    assert counted == {"input_tokens": post(**body).json()["usage"]["input_tokens"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "tiny does not support thinking"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "two tools of one name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
        ({"mcp_servers": [{"type": "url"}]}, "the field mcp_servers is not supported"),
        ({"container": "c"}, "the field container is not supported"),
        ({"output_format": {"type": "json_schema"}}, "the field output_format is not supported"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(asked, change, message):
    post, chat = asked("x")
    assert message in fault_of(post(**change), 400)
    assert chat.engine.asked == []


def test_a_limit_beyond_the_window_is_lowered_to_it(asked):
    post, _ = asked("x")
    answered = post(max_tokens=9000)
    assert answered.status_code == 200
    assert 8100 < int(answered.headers["x-arriero-clamped"].removeprefix("max_tokens=")) < 8192


def test_what_changes_nothing_is_taken_and_named_once(asked, caplog):
    post, _ = asked("x")
    extra = {"metadata": {"user_id": "u"}, "service_tier": "auto", "thinking": {"type": "adaptive"}, "mcp_servers": []}
    turn = {"role": "user", "content": [{"type": "text", "text": "hi", "a_new_field": 1}]}
    with caplog.at_level(logging.INFO, "arriero.server.lenient"):
        answers = [post(**extra, messages=[turn]) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "messages.content.a_new_field" in answers[0].headers["x-arriero-ignored"]
    lines = [entry.getMessage() for entry in caplog.records if "a_new_field" in entry.getMessage()]
    assert lines == ["/v1/messages: the field 'messages.content.a_new_field' is taken and has no effect"]


def test_a_client_that_keeps_threads_is_told_to_send_everything(asked):
    response = asked("x")[0](thread={"type": "create"})
    fault_of(response, 400)
    assert response.json()["error"]["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


def test_errors_have_their_statuses_in_anthropics_shape(client_of):
    client = client_of(keys=Keys({"ana": "ana-secret"}), limits=Limits(max_body=500))
    ana = {"x-api-key": "ana-secret"}
    assert "an API key is needed" in fault_of(client.post(MESSAGES, json=ASK), 401, "authentication_error")
    unknown = client.post(MESSAGES, json=ASK | {"model": "nope"}, headers=ana)
    assert "'nope' is not served here" in fault_of(unknown, 404, "not_found_error")
    fault_of(client.post(f"{MESSAGES}/batches", json=ASK, headers=ana), 404, "not_found_error")
    fault_of(client.get(MESSAGES, headers=ana), 405)
    fault_of(client.post(MESSAGES, content=b" " * 501, headers=ana), 413, "request_too_large")
    fault_of(client.post(MESSAGES, content=b"{", headers=ana), 400)
    assert client.post(MESSAGES, json=ASK, headers=ana).status_code == 200
    assert client.post(MESSAGES, json=ASK, headers={"authorization": "Bearer ana-secret"}).status_code == 200
    client.app.service.drain()
    draining = client.post(MESSAGES, json=ASK, headers=ana)
    fault_of(draining, 503, "overloaded_error")
    assert draining.headers["retry-after"] == "1"


def test_a_failure_ends_the_stream_with_an_event(serve):
    served = serve("abc", gate=1)
    with httpx.stream("POST", served.url + MESSAGES, json=ASK | {"stream": True}) as response:
        lines = response.iter_lines()
        next(line for line in lines if "text_delta" in line)
        assert served.chat.engine.reached.wait(30)
        served.chat.engine.generations[0].finish("cancelled")
        *_, name, data = [line for line in lines if line]
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "overloaded_error"


def test_a_client_that_leaves_stops_the_engine(serve, raw_post):
    served = serve("abcdef", gate=2)
    connection = raw_post(served, MESSAGES, ASK | {"stream": True})
    assert served.chat.engine.reached.wait(30)
    connection.close()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled
