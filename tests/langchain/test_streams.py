"""Streams, callbacks, stop strings and batches over a scripted engine."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from arriero.engines import Generation
from arriero.errors import UsageError
from arriero.langchain import ArrieroLLM, ChatArriero
from tests.conftest import ScriptedEngine
from tests.langchain.kinds import both, text


@pytest.mark.parametrize(("given", "heard"), [({}, 0), ({"streaming": True}, 4), ({"streaming": False}, 0)])
def test_streaming_says_whether_callbacks_hear_an_invocation(scripted_chat, given, heard):
    """It was accepted with a warning that it has no effect."""
    listener = Listener()
    ChatArriero(chat=scripted_chat("abc"), **given).invoke("hi", config={"callbacks": [listener]})
    assert len(listener.tokens) == heard


def test_an_answer_carries_usage_finish_reason_and_model(scripted_chat):
    model = ChatArriero(chat=scripted_chat("abc"))
    usage = {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}  # a b c </s>
    chunks = list(model.stream("hi"))
    for message in (model.invoke("hi"), asyncio.run(model.ainvoke("hi")), sum(chunks[1:], chunks[0])):
        assert message.usage_metadata == usage
        assert message.response_metadata["finish_reason"] == "stop"
        assert message.response_metadata["model_name"] == "tiny"
    assert model.invoke("hi", max_new_tokens=2).response_metadata["finish_reason"] == "length"


@both
def test_streams_join_to_the_answer(scripted_chat, kind):
    model = kind(chat=scripted_chat("骆 and 🦙"))

    async def stream() -> list[str]:
        return [text(chunk) async for chunk in model.astream("hi")]

    chunks = [text(chunk) for chunk in model.stream("hi")]
    assert [chunk for chunk in chunks if chunk] == ["骆", *" and ", "🦙"]
    assert asyncio.run(stream()) == chunks
    assert text(model.invoke("hi")) == text(asyncio.run(model.ainvoke("hi"))) == "骆 and 🦙" == "".join(chunks)


class Listener(BaseCallbackHandler):
    """Keeps what LangChain reports of a run."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.result = None

    def on_llm_new_token(self, token, **kwargs):
        self.tokens.append(token)

    def on_llm_end(self, response, **kwargs):
        self.result = response


@both
def test_callbacks_hear_every_token_of_a_stream(scripted_chat, kind):
    model = kind(chat=scripted_chat("abc"))
    sync, other = Listener(), Listener()
    list(model.stream("hi", {"callbacks": [sync]}))

    async def stream() -> None:
        assert [chunk async for chunk in model.astream("hi", {"callbacks": [other]})]

    asyncio.run(stream())
    for listener in (sync, other):
        assert listener.tokens == ["a", "b", "c", ""]
        generation = listener.result.generations[0][0]
        facts = generation.generation_info if kind is ArrieroLLM else vars(generation.message)
        assert generation.text == "abc"
        assert facts["usage_metadata"]["output_tokens"] == 4
        assert facts["response_metadata"]["finish_reason"] == "stop"


@both
def test_stop_cuts_the_text_and_is_never_partly_shown(scripted_chat, kind):
    chat = scripted_chat("one STOP two")
    model = kind(chat=chat)

    async def stream() -> list[str]:
        return [text(chunk) async for chunk in model.astream("hi", stop=["STOP"])]

    answers = [
        text(model.invoke("hi", stop=["STOP"])),
        text(asyncio.run(model.ainvoke("hi", stop=["STOP"]))),
        "".join(text(chunk) for chunk in model.stream("hi", stop=["STOP"])),
        "".join(asyncio.run(stream())),
        text(model.bind(stop=["STOP"]).invoke("hi")),
        text(kind(chat=chat, stop=["STOP"]).invoke("hi")),
    ]
    assert answers == ["one "] * 6
    assert all(generation.cancelled for generation in chat.engine.generations)


@both
def test_stop_of_a_call_adds_to_the_objects_own(scripted_chat, kind):
    chat = scripted_chat("one two three")
    model = kind(chat=chat, stop=["three"])
    assert text(model.invoke("hi", stop=["two"])) == "one "
    assert text(model.invoke("hi", stop=["four"])) == "one two "
    assert text(model.invoke("hi", stop="two")) == "one ", "a bare string is one stop string, not one for each letter"
    assert [asked[1].stop for asked in chat.engine.asked] == [("three", "two"), ("three", "four"), ("three", "two")]


class EchoEngine(ScriptedEngine):
    """Answers each prompt with its own text, once `together` of them are in flight."""

    def __init__(self, together: int) -> None:
        super().__init__("")
        self.meeting = threading.Barrier(together)

    def submit(self, prompt_ids, sampling, *, max_new_tokens, **options):
        generation = Generation(len(prompt_ids))
        answer = bytes(token - 6 for token in prompt_ids if token >= 6).decode()
        threading.Thread(target=self._answer, args=(generation, answer, max_new_tokens), daemon=True).start()
        return generation

    def _answer(self, generation, answer, limit):
        try:
            self.meeting.wait(10)
        except threading.BrokenBarrierError:
            return generation.finish("cancelled")
        return super()._answer(generation, answer, limit)


@both
def test_a_batch_is_answered_together_and_in_order(scripted_chat, kind):
    chat = scripted_chat("")
    chat.engine = EchoEngine(together=4)
    model = kind(chat=chat)
    prompts = ["first", "second", "third", "fourth"]
    assert [text(answer) for answer in model.batch(prompts)] == prompts
    assert [text(answer) for answer in asyncio.run(model.abatch(prompts))] == prompts


@both
def test_a_bad_prompt_in_a_batch_spoils_no_other(scripted_chat, kind):
    answers = kind(chat=scripted_chat("x")).batch(["hi", "\ud800", "hi"], return_exceptions=True)
    assert [isinstance(answer, UsageError) or text(answer) for answer in answers] == ["x", True, "x"]
