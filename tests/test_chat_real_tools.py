"""Calls with real parts: the vocabulary of Llama 3.1, and the embedded model under a real grammar."""

from __future__ import annotations

import copy
import json

import pytest

from arriero.chat import Chat
from arriero.messages import NamedTool, Sampling, Tool
from arriero.prompt import Renderer
from tests.conftest import ScriptedEngine
from tests.prompt.templates import HERMES
from tests.test_chat_tools import HELLO, WEATHER

# --- the real Llama 3.1 vocabulary, whose <|python_tag|> is a special token ---


@pytest.fixture
def llama(llama_tokenizer):
    def build(*answers, end="<|eot_id|>"):
        stops = tuple(llama_tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|eot_id|>"]))
        engine = ScriptedEngine(
            *answers,
            encode=lambda text: llama_tokenizer.encode(text, add_special_tokens=False),
            end=llama_tokenizer.convert_tokens_to_ids(end),
        )
        defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        renderer = Renderer(llama_tokenizer, stops)
        return Chat(engine, renderer, model="llama", adapter=None, window=8192, defaults=defaults)

    return build


SEARCH = Tool("brave_search", "", {"type": "object", "properties": {"query": {"type": "string"}}})
PYTHON = '<|python_tag|>brave_search.call(query="骆驼")'


@pytest.mark.parametrize("end", ["<|eom_id|>", "<|eot_id|>"])
@pytest.mark.parametrize(
    "answer",
    [
        PYTHON,
        '<|python_tag|>{"name": "brave_search", "parameters": {"query": "骆驼"}}',
        '{"name": "brave_search", "parameters": {"query": "骆驼"}}',
        '<function=brave_search>{"query": "骆驼"}</function>',
    ],
)
def test_the_three_forms_of_llama(llama, answer, end):
    reply = llama(answer, end=end).complete(HELLO, tools=[SEARCH])
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert [(call.name, call.values) for call in reply.tool_calls] == [("brave_search", {"query": "骆驼"})]


def test_special_tokens_are_seen_by_the_reader_of_calls_and_by_nobody_else(llama):
    without = PYTHON.removeprefix("<|python_tag|>")
    assert llama(PYTHON).complete(HELLO).text == without
    reply = llama(PYTHON.replace("brave", "bing")).complete(HELLO, tools=[SEARCH], logprobs=0)
    assert (reply.text, reply.finish_reason) == (without.replace("brave", "bing"), "stop")
    tokens = [token.token_id for token in reply.logprobs]
    assert llama("").renderer.tokenizer.decode(tokens) == reply.text


def test_a_demanded_call_has_the_form_of_the_model(llama):
    made = llama('{"name": "brave_search", "parameters": {"query": "x"}}')
    reply = made.complete(HELLO, tools=[SEARCH], tool_choice="required")
    series = made.engine.options[0]["constraint"]
    assert [part.text for part in series.parts[::2]] == ['{"name": "brave_search", "parameters": ', "}"]
    assert json.loads(reply.tool_calls[0].arguments) == {"query": "x"}


# --- a real model and a real grammar ---


@pytest.fixture(scope="module")
def small(embedded_model, session_home):
    """The embedded model, which was never taught to call tools, under a template that takes them."""
    from arriero.engines import load_engine
    from arriero.prompt import load_tokenizer, stop_token_ids

    tokenizer = load_tokenizer(embedded_model)
    tokenizer.chat_template = HERMES
    stops = stop_token_ids(tokenizer, embedded_model)
    engine = load_engine(embedded_model, stops, engine="transformers")
    defaults = Sampling(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0,
                        frequency_penalty=0.0)  # fmt: skip
    made = Chat(engine, Renderer(tokenizer, stops), model="small", adapter=None, window=8192, defaults=defaults)
    yield made
    made.close()


@pytest.mark.model
@pytest.mark.parametrize("seed", [1, 2])
def test_a_demanded_call_always_comes(small, seed):
    clock = Tool(
        "clock", "", {"type": "object", "properties": {"zone": {"enum": ["UTC", "BOT"]}}, "required": ["zone"]}
    )
    options = {"tools": [WEATHER, clock], "tool_choice": NamedTool("clock")}
    reply = small.complete(HELLO, Sampling(max_new_tokens=80, seed=seed), **options)
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert [call.name for call in reply.tool_calls] == ["clock"]
    assert reply.tool_calls[0].values["zone"] in ("UTC", "BOT")


@pytest.mark.slow
@pytest.mark.model
def test_a_schema_always_holds(small):
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"],
              "additionalProperties": False}  # fmt: skip
    for tools in ([], [WEATHER]):
        reply = small.complete(HELLO, Sampling(max_new_tokens=80, seed=3), schema=schema, tools=tools)
        if reply.tool_calls:
            assert set(reply.tool_calls[0].values) == {"city"}
        else:
            assert isinstance(json.loads(reply.text)["yes"], bool)


@pytest.mark.slow
@pytest.mark.model
def test_the_embedded_model_calls_tools_by_its_own_template(small, embedded_model):
    """Its template has no place for tools, so it was refused."""
    from arriero.prompt import load_tokenizer

    made = copy.copy(small)
    made.renderer = Renderer(load_tokenizer(embedded_model), small.renderer.stop_token_ids)
    asked = [{"role": "user", "content": "What is the weather in Cusco?"}]
    options = {"tools": [WEATHER], "tool_choice": "required"}
    reply = made.complete(asked, Sampling(max_new_tokens=80, temperature=0.0), **options)
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert set(reply.tool_calls[0].values) == {"city"}
    result = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "12 °C"}
    assert made.complete([*asked, reply.message, result], Sampling(max_new_tokens=8), tools=[WEATHER]).text
    cut = made.complete(asked, Sampling(max_new_tokens=16, temperature=0.0), **options)
    assert (cut.text, cut.finish_reason, cut.tool_calls[0].name) == ("", "length", "weather")
