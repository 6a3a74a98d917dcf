"""Whoever breaks off cancels the generation, and the event loop stays free."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from langchain_core.messages import HumanMessage

from arriero.langchain import ArrieroLLM
from tests.langchain.kinds import both, text


@both
def test_breaking_off_a_stream_cancels_the_generation(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)
    stream = kind(chat=chat).stream("hi")
    assert text(next(stream)) == "a"
    stream.close()
    assert chat.engine.generations[0].cancelled


@both
def test_breaking_off_an_async_stream_cancels_the_generation(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)

    async def main() -> None:
        async with aclosing(kind(chat=chat).astream("hi")) as stream:
            assert text(await anext(stream)) == "a"
            assert not chat.engine.generations[0].cancelled
        for _ in range(10):  # LangChain drops our stream and leaves closing it to the loop: give it a turn
            await asyncio.sleep(0)
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
def test_our_own_async_stream_cancels_before_it_is_closed(scripted_chat, kind):
    chat = scripted_chat("abcdef", gate=3)

    async def main() -> None:
        model = kind(chat=chat)
        stream = model._astream("hi" if kind is ArrieroLLM else [HumanMessage("hi")])
        assert (await anext(stream)).text == "a"
        await stream.aclose()
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_a_cancelled_task_cancels_the_generation(scripted_chat, kind, how):
    chat = scripted_chat("abcdef", gate=2)

    async def main() -> None:
        task = asyncio.ensure_future(answer(kind(chat=chat), how))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chat.engine.generations[0].cancelled

    asyncio.run(main())


@both
@pytest.mark.parametrize("how", ["ainvoke", "astream"])
def test_the_event_loop_is_free_while_the_engine_works(scripted_chat, kind, how):
    chat = scripted_chat("abc", gate=1)

    async def main() -> str:
        task = asyncio.ensure_future(answer(kind(chat=chat), how))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        held = chat.engine.generations[0].finish_reason is None  # else the gate gave up on a blocked loop
        chat.engine.release.set()
        assert held
        return await task

    assert asyncio.run(main()) == "abc"


async def answer(model, how: str) -> str:
    """Ask `hi`, at once or as a stream."""
    if how == "ainvoke":
        return text(await model.ainvoke("hi"))
    return "".join([text(chunk) async for chunk in model.astream("hi")])
