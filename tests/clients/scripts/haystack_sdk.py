"""Haystack's OpenAIChatGenerator."""

import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import json

import openai
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from smoke import MODEL, QUESTION, SCHEMA, SYSTEM, URL, City, check, raises, report

ASKED = ChatMessage.from_user(QUESTION)


def chat(model=MODEL, **options):
    sampling = {"temperature": 0, "max_tokens": 60, **options.pop("sampling", {})}
    here = {"api_base_url": f"{URL}/v1", "api_key": Secret.from_token("none")}
    return OpenAIChatGenerator(model=model, generation_kwargs=sampling, **here, **options)


def answer(messages, generator=None):
    return (generator or chat()).run(messages)["replies"][0]


@check
def conversation():
    messages = [ChatMessage.from_system(SYSTEM), ASKED]
    first = answer(messages)
    assert "Paris" in first.text
    assert first.meta["usage"]["completion_tokens"] > 0
    assert answer([*messages, first, ChatMessage.from_user("Sure?")]).text


@check
def stream():
    parts = []
    whole = answer([ASKED], chat(streaming_callback=lambda chunk: parts.append(chunk.content)))
    assert "Paris" in whole.text == "".join(parts)


@check
async def asynchronous():
    assert "Paris" in (await chat().run_async([ASKED]))["replies"][0].text


@check
def tool_loop():
    tool = Tool("weather", "Weather of a city", SCHEMA, lambda **_: "sunny")
    demanded = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
    first = answer([ASKED], chat(tools=[tool], sampling=demanded))
    [call] = first.tool_calls
    City.model_validate(call.arguments)
    result = ChatMessage.from_tool("sunny", origin=call)
    assert answer([ASKED, first, result], chat(tools=[tool], sampling={"tool_choice": "none"})).text


@check
def structured():
    assert City.model_validate(json.loads(answer([ASKED], chat(sampling={"response_format": City})).text))


@check
def stop():
    assert "Paris" not in answer([ASKED], chat(sampling={"stop": ["Paris"]})).text


@check
def unknown_model():
    with raises(openai.NotFoundError):
        answer([ASKED], chat("unknown"))


report("haystack-ai")
