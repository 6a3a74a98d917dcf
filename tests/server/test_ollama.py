"""Ollama's API, in the forms that its documentation and its clients have on the wire."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from arriero.messages import Message, ToolCall
from arriero.server.auth import Keys
from tests.conftest import TOOL_TEMPLATE

CHAT, GENERATE = "/api/chat", "/api/generate"
HI = [{"role": "user", "content": "hi"}]
BODIES = {CHAT: {"model": "tiny", "messages": HI}, GENERATE: {"model": "tiny", "prompt": "hi"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "", "parameters": SCHEMA}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Cusco"}}\n</tool_call>'
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture
def asked(serve, scripted_chat):
    """`post, chat = asked("answer", …)`: `post(path, **changes)` is a real server's response, not streamed."""

    def build(*answers, **options):
        chat = scripted_chat(*answers, template=TOOL_TEMPLATE, **options)
        url = serve(chat=chat).url
        return lambda path=CHAT, **changes: httpx.post(
            url + path, json=BODIES.get(path, {}) | {"stream": False} | changes, timeout=30
        ), chat

    return build


def without_times(found: dict) -> dict:
    """An object without its times, which are checked here."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", found.pop("created_at"))
    if found["done"] and found["done_reason"] != "load":
        times = [found.pop(name) for name in DURATIONS]
        assert all(type(time) is int for time in times)
        assert times[0] > 0 < times[3], "clients divide by them"
    return found


def lines_of(response: httpx.Response) -> list[dict]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [without_times(json.loads(line)) for line in response.text.splitlines()]


def fault_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return response.json()["error"]


def said(path: str, text: str) -> dict:
    return {"message": {"role": "assistant", "content": text}} if path == CHAT else {"response": text}


@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_an_answer_whole_and_in_lines(asked, path):
    post, chat = asked("a骆")
    ended = {"done": True, "done_reason": "stop", "eval_count": 5}
    ended["prompt_eval_count"] = len(chat.render(HI))
    assert without_times(post(path).json()) == {"model": "tiny", **said(path, "a骆"), **ended}
    for stream in (True, None):  # a stream is what Ollama gives unless told otherwise
        assert lines_of(post(path, stream=stream, model="tiny:latest")) == [
            {"model": "tiny:latest", **said(path, "a"), "done": False},
            {"model": "tiny:latest", **said(path, "骆"), "done": False},
            {"model": "tiny:latest", **said(path, ""), **ended},
        ]
    assert [ids for ids, _, _ in chat.engine.asked] == [chat.render(HI)] * 3


def test_generate_takes_a_system_prompt(asked):
    post, chat = asked("x")
    post(GENERATE, system="Be brief.")
    assert chat.engine.asked[0][0] == chat.render([Message("system", "Be brief."), Message("user", "hi")])


def test_options_are_the_sampling(asked):
    post, chat = asked("abcdef")
    options = {
        "temperature": 1,
        "num_predict": 50.0,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "seed": 0,
        "stop": ["de"],
        "repeat_last_n": -1,
        "num_ctx": 4096,
        "mirostat": 0,
        "typical_p": 1.0,
    }
    body = post(options=options, keep_alive="5m").json()
    assert (body["message"]["content"], body["done_reason"]) == ("abc", "stop")
    [(_, sampling, limit)] = chat.engine.asked
    assert (sampling.temperature, limit, sampling.top_k, sampling.top_p) == (1.0, 50, 5, 0.5)
    assert (sampling.min_p, sampling.repetition_penalty, sampling.seed) == (0.1, 1.2, 0)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, 0.25)


def test_negative_options_mean_no_limit_and_any_seed(asked):
    post, chat = asked("x")
    plain = [post(), post(options={"num_predict": -1, "seed": -1, "top_k": -1})]
    assert [response.status_code for response in plain] == [200, 200]
    (_, first, limit), (_, second, same) = chat.engine.asked
    assert (limit, second.seed, second.top_k) == (same, first.seed, 0)


def test_an_answer_at_its_limit(asked):
    assert asked("abcdef")[0](options={"num_predict": 3}).json()["done_reason"] == "length"


@pytest.mark.parametrize("path", [CHAT, GENERATE])
@pytest.mark.parametrize(("form", "constrained"), [("json", True), (SCHEMA, True), ("", False), (None, False)])
def test_the_form_of_an_answer(asked, path, form, constrained):
    post, chat = asked("{}")
    assert post(path, format=form).status_code == 200
    assert (chat.engine.options[0]["constraint"] is not None) == constrained


@pytest.mark.parametrize("naming", [{}, {"tool_name": "weather"}, {"tool_call_id": "mine"}], ids=str)
def test_a_call_goes_out_and_its_result_comes_back(asked, naming):
    post, chat = asked(f"See. {CALL}", "sunny")
    body = post(tools=[WEATHER]).json()
    [call] = body["message"]["tool_calls"]
    assert body["message"]["content"] == "See."
    assert body["done_reason"] == "stop"
    assert call["function"] == {"name": "weather", "arguments": {"city": "Cusco"}}
    sent = {"function": call["function"], **({"id": "mine"} if "tool_call_id" in naming else {})}
    turns = [*HI, {"role": "assistant", "content": "See.", "tool_calls": [sent]}, {"role": "tool", "content": "hot"}]
    turns[-1] |= naming
    assert post(tools=[WEATHER], messages=turns).json()["message"]["content"] == "sunny"
    made = ToolCall("any", "weather", '{"city": "Cusco"}')
    expected = [Message("user", "hi"), Message("assistant", "See.", (made,)), Message("tool", "hot", (), "any")]
    assert chat.engine.asked[1][0] == chat.render(expected, tools=[WEATHER])


def test_results_find_their_calls_by_name(asked):
    post, chat = asked("x")
    functions = [{"name": name, "arguments": {}} for name in ("weather", "time")]
    turns = [
        *HI,
        {"role": "assistant", "tool_calls": [{"function": function} for function in functions]},
        {"role": "tool", "content": "noon", "tool_name": "time"},
        {"role": "tool", "content": "hot", "tool_name": "weather"},
    ]
    other = {"type": "function", "function": {"name": "time"}}
    assert post(tools=[WEATHER, other], messages=turns).status_code == 200
    calls = (ToolCall("a", "weather", "{}"), ToolCall("b", "time", "{}"))
    results = [Message("tool", "noon", (), "b"), Message("tool", "hot", (), "a")]
    expected = [Message("user", "hi"), Message("assistant", "", calls), *results]
    assert chat.engine.asked[0][0] == chat.render(expected, tools=[WEATHER, other])


def test_calls_are_streamed_whole(asked):
    lines = lines_of(asked(CALL)[0](tools=[WEATHER], stream=True))
    [calls] = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
    assert [call["function"] for call in calls] == [{"name": "weather", "arguments": {"city": "Cusco"}}]
    assert (lines[-1]["done"], lines[-1]["done_reason"]) == (True, "stop")


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi", "images": ["aGk="]}]}, "messages[0].images is not"),
        (CHAT, {"messages": [{"role": "tool", "content": "hi"}]}, "was not called before"),
        (CHAT, {"logprobs": True}, "the field logprobs is not supported"),
        (CHAT, {"format": "xml"}, "format"),
        (CHAT, {"options": {"mirostat": 2}}, "the field options.mirostat is not supported"),
        (CHAT, {"options": {"typical_p": 0.7}}, "the field options.typical_p is not supported"),
        (CHAT, {"options": {"repeat_last_n": 64, "repeat_penalty": 1.1}}, "options.repeat_last_n is not supported"),
        (CHAT, {"options": {"temperature": 3}}, "options.temperature"),
        (GENERATE, {"raw": True}, "the field raw is not supported"),
        (GENERATE, {"template": "x"}, "the field template is not supported"),
        (GENERATE, {"suffix": "x"}, "the field suffix is not supported"),
        (GENERATE, {"context": [1]}, "the field context is not supported"),
        (GENERATE, {"images": ["aGk="]}, "the field images is not supported"),
        (GENERATE, {"prompt": "a" * 9000}, "window holds 8192"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(asked, path, change, message):
    post, chat = asked("x")
    assert message in fault_of(post(path, **change), 400)
    assert chat.engine.asked == []


def test_what_changes_nothing_is_taken(asked):
    post, _ = asked("x")
    options = {"num_gpu": 1, "low_vram": None, "repeat_last_n": 64}
    turn = {"role": "user", "content": "hi", "images": [], "thinking": None}
    assert post(think=False, keep_alive=-1.0, options=options, messages=[turn], more=1).status_code == 200
    assert post(GENERATE, raw=False, context=None, suffix="").status_code == 200


@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_nothing_to_answer_is_the_model_loaded(asked, path):
    post, chat = asked("x")
    nothing = {"messages": []} if path == CHAT else {"prompt": ""}
    body = without_times(post(path, **nothing).json())
    assert body == {"model": "tiny", **said(path, ""), "done": True, "done_reason": "load"}
    assert chat.engine.asked == []


def test_models_are_listed_and_shown(client_of):
    client = client_of("x")
    assert re.fullmatch(r"\d+\.\d+\.\d+", client.get("/api/version").json()["version"])
    [listed] = client.get("/api/tags").json()["models"]
    assert (listed["name"], listed["model"]) == ("tiny:latest", "tiny:latest")
    assert re.fullmatch("[0-9a-f]{64}", listed["digest"])
    for body in ({"model": "tiny"}, {"name": "tiny:latest"}, {"model": "tiny", "verbose": True}):
        shown = client.post("/api/show", json=body).json()
        assert shown["model_info"][f"{shown['model_info']['general.architecture']}.context_length"] == 256
        assert shown["capabilities"] == ["completion"], "this template has no place for tools"
        assert "add_generation_prompt" in shown["template"]
    assert fault_of(client.post("/api/show", json={}), 400) == "the field model is missing"


def test_errors_have_their_statuses_in_ollamas_shape(client_of):
    client = client_of(keys=Keys({"ana": "ana-secret"}))
    ana = {"authorization": "Bearer ana-secret"}
    assert "an API key is needed" in fault_of(client.get("/api/tags"), 401)
    for path, body in (*BODIES.items(), ("/api/show", {})):
        response = client.post(path, json=body | {"model": "nope"}, headers=ana)
        assert "'nope' is not served here" in fault_of(response, 404)
    fault_of(client.post("/api/pull", json={"model": "x"}, headers=ana), 404)
    fault_of(client.get(CHAT, headers=ana), 405)
    fault_of(client.post(CHAT, content=b"{", headers=ana), 400)
    client.app.service.drain()
    assert fault_of(client.post(CHAT, json=BODIES[CHAT], headers=ana), 503)


def test_a_failure_is_the_last_line(serve):
    served = serve("abc", gate=1)
    with httpx.stream("POST", served.url + CHAT, json=BODIES[CHAT]) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["message"]["content"] == "a"
        assert served.chat.engine.reached.wait(30)
        served.chat.engine.generations[0].finish("cancelled")
        assert [list(json.loads(line)) for line in lines] == [["error"]]


def test_a_client_that_leaves_stops_the_engine(serve, raw_post):
    served = serve("abcdef", gate=2)
    connection = raw_post(served, CHAT, BODIES[CHAT])
    assert served.chat.engine.reached.wait(30)
    connection.close()
    served.wait_for_end()
    assert served.chat.engine.generations[0].cancelled
