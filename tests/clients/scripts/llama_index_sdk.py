"""LlamaIndex's OpenAILike."""

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from smoke import MODEL, QUESTION, SYSTEM, URL, City, check, raises, report


def chat(model=MODEL, **options):
    here = {"api_base": f"{URL}/v1", "api_key": "none", "is_chat_model": True, "context_window": 2048}
    return OpenAILike(model=model, temperature=0, max_tokens=60, is_function_calling_model=True, **here, **options)


def weather(city: City) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@check
def conversation():
    messages = [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=QUESTION)]
    first = chat().chat(messages)
    assert "Paris" in first.message.content
    assert first.raw.usage.completion_tokens > 0
    assert chat().chat([*messages, first.message, ChatMessage(role="user", content="Sure?")]).message.content


@check
def complete():
    assert "Paris" in chat().complete(QUESTION).text


@check
def stream():
    *_, last = chat().stream_chat([ChatMessage(role="user", content=QUESTION)])
    assert "Paris" in last.message.content


@check
async def asynchronous():
    assert "Paris" in (await chat().achat([ChatMessage(role="user", content=QUESTION)])).message.content


@check
def tool_loop():
    tool = FunctionTool.from_defaults(weather)
    asked = ChatMessage(role="user", content=QUESTION)
    first = chat().chat_with_tools([tool], chat_history=[asked], tool_choice="weather")
    [call] = chat().get_tool_calls_from_response(first)
    City.model_validate(call.tool_kwargs["city"])
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    last = chat().chat_with_tools([tool], chat_history=[asked, first.message, result], tool_choice="none")
    assert last.message.content


@check
def structured():
    for here in ({}, {"should_use_structured_outputs": True}):
        assert isinstance(chat(**here).as_structured_llm(City).complete(QUESTION).raw, City)


@check
def stop():
    assert "Paris" not in chat().complete(QUESTION, stop=["Paris"]).text


@check
def unknown_model():
    with raises(openai.NotFoundError):
        chat("unknown").complete(QUESTION)


report("llama-index-llms-openai-like")
