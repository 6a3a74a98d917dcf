"""Models that think before they answer, in the words of every API: whole, streamed and sent back."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from starlette.testclient import TestClient

from arriero.chat import Chat
from arriero.messages import Sampling
from arriero.prompt import Renderer
from arriero.server import create_app
from tests.conftest import ScriptedEngine
from tests.prompt.reasoning import BRACKETS, QWEN3, R1, reasoning_tokenizer
from tests.server.conftest import Served
from tests.test_chat_reasoning import tags_as_ids

HELLO = {"role": "user", "content": "hi"}
THOUGHT = "Hm.\n\nSo."
CHAT, RESPONSES, MESSAGES, OLLAMA, GENERATE = (
    "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate"
)  # fmt: skip


def made(template=QWEN3, answer=f"<think>\n{THOUGHT}\n</think>\n\nYes.", **options):
    defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
    renderer = Renderer(reasoning_tokenizer(template), (2,), **options)
    engine = ScriptedEngine(answer, encode=tags_as_ids)
    return Chat(engine, renderer, model="tiny", adapter=None, window=8192, defaults=defaults)


@pytest.fixture
def post():
    """`post(path, chat, **body)` -> the response's JSON, and what it asks for."""

    def send(path, chat=None, **body):
        client = TestClient(create_app(chat or made()), raise_server_exceptions=False)
        given = {"model": "tiny"} | ({} if path in (RESPONSES, GENERATE) else {"messages": [HELLO]})
        return client.post(path, json=given | body)

    return send


def prompt_of(chat):
    return chat.renderer.tokenizer.decode(chat.engine.asked[-1][0])


# --- OpenAI's chat completions, over a real connection ---


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One server, whose prompt has opened the reasoning."""
    chat = made(R1, f"{THOUGHT}\n</think>\n\nYes.")
    running = Served(chat, create_app(chat))
    yield running
    running.stop()


def test_openai_s_client_streams_reasoning_before_text(served):
    """It came as text, closing tag and all, where the prompt had opened it."""
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    options = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="tiny", messages=[HELLO], stream=True, **options))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [thought for delta in deltas if (thought := getattr(delta, "reasoning_content", None))]
    assert "".join(thoughts) == THOUGHT
    assert len(thoughts) > 3
    assert "".join(delta.content or "" for delta in deltas) == "Yes."
    kinds = ["text" if delta.content else "thought" for delta in deltas[1:-1]]
    assert kinds == sorted(kinds, reverse=True), "all of it comes first"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens > len(thoughts)


def test_a_whole_answer_goes_back_as_it_is(served, post):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    message = client.chat.completions.create(model="tiny", messages=[HELLO]).choices[0].message
    assert (message.reasoning_content, message.content) == (THOUGHT, "Yes.")
    for name in ("reasoning_content", "reasoning"):
        turn = {"role": "assistant", "content": "Yes.", name: THOUGHT}
        chat = made()
        response = post(CHAT, chat, messages=[HELLO, turn], add_generation_prompt=False, continue_final_message=False)
        assert response.status_code == 200, response.text
        assert "x-arriero-ignored" not in response.headers
        assert prompt_of(chat).endswith(f"<bot><think>\n{THOUGHT}\n</think>\n\nYes.</s>")


@pytest.mark.parametrize("name", ["max_reasoning_tokens", "thinking_token_budget"])
def test_a_limit_is_what_the_engine_is_held_to(post, name):
    """vLLM's word for it was refused."""
    chat = made()
    assert post(CHAT, chat, **{name: 7}).status_code == 200
    assert chat.engine.options[0]["constraint"].limit == 7
    assert post(CHAT, **{name: -1}).status_code == 400


def test_a_variable_of_the_server_is_a_default_and_one_of_training_is_not(post):
    """What was trained is what is served; a client that says the same is right."""
    for frozen, status in ((frozenset(), 200), (frozenset({"enable_thinking"}), 400)):
        chat = made(variables={"enable_thinking": False}, frozen=frozen)
        assert post(CHAT, chat).status_code == 200
        assert prompt_of(chat).endswith("<think>\n\n</think>\n\n")
        assert post(CHAT, chat, chat_template_kwargs={"enable_thinking": False}).status_code == 200
        response = post(CHAT, chat, chat_template_kwargs={"enable_thinking": True})
        assert response.status_code == status
        assert prompt_of(chat).endswith("<bot>") == (status == 200)


# --- Anthropic's messages ---


def test_thinking_is_a_block_before_the_text(post):
    answer = post(MESSAGES, max_tokens=99).json()
    assert answer["content"] == [
        {"type": "thinking", "thinking": THOUGHT, "signature": ""},
        {"type": "text", "text": "Yes."},
    ]
    lines = post(MESSAGES, max_tokens=99, stream=True).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    blocks = [(event["type"], event["index"]) for event in events if event["type"].startswith("content_block_st")]
    assert blocks == [(f"content_block_{what}", index) for index in (0, 1) for what in ("start", "stop")]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == THOUGHT
    assert "".join(delta.get("text", "") for delta in deltas) == "Yes."
    chat = made()
    turns = [HELLO, {"role": "assistant", "content": answer["content"]}]
    assert post(MESSAGES, chat, max_tokens=9, messages=turns).status_code == 200
    assert f"<think>\n{THOUGHT}\n</think>\n\nYes." in prompt_of(chat)


# --- Ollama ---


@pytest.mark.parametrize(("path", "field"), [(OLLAMA, ("message", "content")), (GENERATE, ("response",))])
def test_ollama_s_thinking_is_a_field_beside_the_text(post, path, field):
    def read(line):
        inner = line["message"] if path == OLLAMA else line
        return inner.get("thinking", ""), inner[field[-1]]

    body = {} if path == OLLAMA else {"prompt": "hi"}
    assert read(post(path, stream=False, **body).json()) == (THOUGHT, "Yes.")
    parts = [read(json.loads(line)) for line in post(path, **body).text.splitlines()]
    assert ("".join(thought for thought, _ in parts), "".join(text for _, text in parts)) == (THOUGHT, "Yes.")
    if path == OLLAMA:
        chat = made()
        post(path, chat, stream=False, messages=[HELLO, {"role": "assistant", "content": "Y", "thinking": THOUGHT}])
        assert f"<think>\n{THOUGHT}\n</think>\n\nY" in prompt_of(chat)


def test_ollama_s_clients_see_which_models_think():
    client = TestClient(create_app(made(BRACKETS)))
    assert client.post("/api/show", json={"model": "tiny"}).json()["capabilities"] == [
        "completion",
        "tools",
        "thinking",
    ]


# --- thinking on and off ---

WORDS = {
    MESSAGES: ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "enabled", "budget_tokens": 5}}),
    OLLAMA: ({"think": False}, {"think": "high"}),
}


@pytest.mark.parametrize("path", WORDS)
def test_thinking_is_turned_on_and_off_by_the_template_s_switch(post, path):
    off, on = WORDS[path]
    more = {"max_tokens": 9} if path == MESSAGES else {}
    for said, ending in ((off, "<think>\n\n</think>\n\n"), (on, "<bot>")):
        chat = made(variables={"enable_thinking": said is not on})
        assert post(path, chat, **more, **said).status_code == 200
        assert prompt_of(chat).endswith(ending)
    limit = getattr(chat.engine.options[-1]["constraint"], "limit", None)
    assert limit == (5 if path == MESSAGES else None)


@pytest.mark.parametrize("path", WORDS)
def test_a_model_without_a_switch_is_kept_from_thinking_by_a_limit_of_nothing(post, path):
    chat = made(R1)
    more = {"max_tokens": 9} if path == MESSAGES else {}
    assert post(path, chat, **more, **WORDS[path][0]).status_code == 200
    assert chat.engine.options[-1]["constraint"].limit == 0


@pytest.mark.parametrize("path", WORDS)
def test_thinking_that_is_wanted_of_a_model_without_it_is_refused(app_of, path):
    client, _ = app_of("x")
    body = {"model": "tiny", "messages": [HELLO], "max_tokens": 9}
    response = client.post(path, json=body | WORDS[path][1])
    assert response.status_code == 400
    assert "tiny does not support thinking" in response.text
    assert client.post(path, json=body | WORDS[path][0]).status_code == 200


# --- OpenAI's responses ---


def test_reasoning_is_an_item_of_a_response_and_goes_back(post, tmp_path, monkeypatch):
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path))
    response = post(RESPONSES, input="hi").json()
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": THOUGHT}]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] > 5
    lines = post(RESPONSES, input="hi", stream=True).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"]
    assert "".join(deltas) == THOUGHT
    assert [event["text"] for event in events if event["type"] == "response.reasoning_text.done"] == [THOUGHT]
    chat = made()
    sent = [HELLO, *response["output"]]
    assert post(RESPONSES, chat, input=sent).status_code == 200
    assert f"<think>\n{THOUGHT}\n</think>\n\nYes." in prompt_of(chat)
    assert post(RESPONSES, chat, input=[HELLO, response["output"][0], HELLO]).status_code == 200
    assert "<bot></s>" not in prompt_of(chat), "reasoning of which nothing came is no turn"
