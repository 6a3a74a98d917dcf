"""LangChain's ChatOpenAI on chat completions and on responses, and its OpenAIEmbeddings."""

from __future__ import annotations

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from smoke import EMBEDDING, MODEL, QUESTION, SYSTEM, URL, City, check, raises, report

HERE = {"base_url": f"{URL}/v1", "api_key": "none"}


def chat(**options):
    return ChatOpenAI(**HERE, **{"model": MODEL, "temperature": 0, "max_tokens": 60} | options)


def for_both(function):
    """Check it on both of the APIs."""
    for name, options in (("chat", {}), ("responses", {"use_responses_api": True})):

        def bound(options=options):
            function(**options)

        bound.__name__ = f"{function.__name__}_{name}"
        check(bound)


@for_both
def conversation(**options):
    messages = [SystemMessage(SYSTEM), HumanMessage(QUESTION)]
    first = chat(**options).invoke(messages)
    assert "Paris" in first.text
    assert first.usage_metadata["total_tokens"] > 0
    assert chat(**options).invoke([*messages, first, HumanMessage("Are you sure?")]).text


@for_both
def stream(**options):
    first, *chunks = chat(**options, stream_usage=True).stream(QUESTION)
    for chunk in chunks:
        first += chunk
    assert "Paris" in first.text
    assert first.usage_metadata["output_tokens"] > 0


@for_both
def tool_loop(**options):
    messages = [HumanMessage(QUESTION)]
    messages.append(chat(**options).bind_tools([City], tool_choice="City").invoke(messages))
    [call] = messages[-1].tool_calls
    City.model_validate(call["args"])
    messages.append(ToolMessage("sunny", tool_call_id=call["id"]))
    assert chat(**options).bind_tools([City], tool_choice="none").invoke(messages).text


@for_both
def structured(**options):
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat(**options).with_structured_output(City, method=method).invoke(QUESTION), City)


@check
async def asynchronous():
    assert "Paris" in (await chat().ainvoke(QUESTION)).text


@check
def stop():
    assert "Paris" not in chat(stop_sequences=["Paris"]).invoke(QUESTION).text


@check
def embeddings():
    embedder = OpenAIEmbeddings(**HERE, model=EMBEDDING, check_embedding_ctx_length=False)
    assert [len(vector) for vector in embedder.embed_documents(["a llama", "an arriero"])] == [384, 384]


@check
def unknown_model():
    with raises(openai.NotFoundError):
        chat(model="unknown").invoke(QUESTION)


report("langchain-openai")
