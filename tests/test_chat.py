"""Chat: the one answering interface, over a scripted engine and over the real ones."""

from __future__ import annotations

import asyncio

import pytest

from arriero.chat import load
from arriero.errors import ContextLengthError, ContractError, EngineLostError, NotFoundError, UsageError
from arriero.messages import Piece, Sampling, Usage
from tests.conftest import TEMPLATE, ids_of

HELLO = [{"role": "user", "content": "hi"}]


def test_stream_ends_with_finish_reason_and_usage(scripted_chat):
    pieces = list(scripted_chat("abc").stream(HELLO))
    assert [piece.text for piece in pieces] == ["a", "b", "c", ""]
    # <s> <user> h i </s> <bot> are 6 prompt ids; a b c </s> are 4 generated ones
    assert pieces[-1] == Piece("", "stop", Usage(6, 4))


def test_the_engine_gets_exactly_the_rendered_ids(scripted_chat):
    chat = scripted_chat("x")
    chat.complete(HELLO)
    assert chat.engine.asked[0][0] == chat.render(HELLO) == [1, 4, *ids_of("hi"), 2, 5]


def test_characters_made_of_several_tokens_arrive_whole(scripted_chat):
    pieces = list(scripted_chat("骆🦙!").stream(HELLO))
    assert [piece.text for piece in pieces if piece.text] == ["骆", "🦙", "!"]


def test_stop_string_across_tokens_is_cut_and_never_partly_shown(scripted_chat):
    chat = scripted_chat("one STOP two")
    pieces = list(chat.stream(HELLO, Sampling(stop=("STOP",))))
    assert "".join(piece.text for piece in pieces) == "one "
    assert pieces[-1].finish_reason == "stop"
    assert chat.engine.generations[0].cancelled, "the engine must not go on after a stop string"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_complete_with_the_text_of_a_piece_waits_for_no_further_token(scripted_chat, asynchronous):
    """The engine computed one more, which was counted, and if it was lost just then the answer was, too."""
    chat = scripted_chat("abx and so on", gate=3)
    stream = chat.stream(HELLO, Sampling(stop=("abc", "bx")))

    async def read() -> list[Piece]:
        pieces = [await anext(stream)]
        chat.engine.generations[0].fail(EngineLostError("killed"))
        return pieces + [piece async for piece in stream]

    if asynchronous:
        pieces = asyncio.run(read())
    else:
        pieces = [next(stream)]
        chat.engine.generations[0].fail(EngineLostError("killed"))
        pieces += stream
    assert pieces == [Piece("a"), Piece("", "stop", Usage(6, 3), stop="bx")]


def test_length_is_told_apart_from_stop(scripted_chat):
    reply = scripted_chat("abcdef").complete(HELLO, Sampling(max_new_tokens=3))
    assert (reply.text, reply.finish_reason) == ("abc", "length")


def test_an_engine_that_stops_working_is_told_apart_from_both(scripted_chat):
    chat = scripted_chat("abcdef", gate=3)
    stream = chat.stream(HELLO)
    pieces = [next(stream) for _ in range(3)]
    chat.engine.generations[0].cancel()
    chat.engine.release.set()
    pieces += stream
    assert "".join(piece.text for piece in pieces) == "abc"
    assert pieces[-1].finish_reason == "cancelled"


def test_an_answer_goes_on_to_the_end_of_the_window(scripted_chat):
    """It used to end after 512 tokens, in the middle of a sentence, where nobody had asked for a limit."""
    chat = scripted_chat("a" * 600, template=TEMPLATE)
    reply = chat.complete(HELLO)
    assert (len(reply.text), reply.finish_reason) == (600, "stop")
    assert chat.engine.asked[0][2] == 8192 - 6


@pytest.mark.parametrize(("asked", "limit", "clamped"), [(None, 52, None), (52, 52, None), (53, 52, 52), (9, 9, None)])
def test_a_limit_beyond_the_window_is_clamped_and_that_is_told(scripted_chat, asked, limit, clamped):
    """`max_tokens` larger than what the window leaves used to be an error, though the prompt fits."""
    chat = scripted_chat("x")
    stream = chat.stream([{"role": "user", "content": "a" * 200}], Sampling(max_new_tokens=asked))
    assert (chat.engine.asked[0][2], stream.clamped) == (limit, clamped)


def test_a_prompt_that_leaves_no_room_is_an_error(scripted_chat):
    for length in (252, 300):
        with pytest.raises(ContextLengthError, match=rf"{length + 4} tokens.*window holds 256"):
            scripted_chat("x").stream([{"role": "user", "content": "a" * length}])


def test_an_answer_is_continued_or_a_new_one_begun(scripted_chat):
    """Ending with the assistant used to be refused."""
    chat = scripted_chat("x")
    begun = [*HELLO, {"role": "assistant", "content": "yo"}]
    asked = [1, 4, *ids_of("hi"), 2]
    assert chat.render(begun) == chat.render(begun, continue_final_message=True) == [*asked, 5, *ids_of("yo")]
    assert chat.render(begun, add_generation_prompt=True) == [*asked, 5, *ids_of("yo"), 2, 5]
    assert chat.render(begun, continue_final_message=False) == [*asked, 5, *ids_of("yo"), 2, 5]
    assert chat.render(begun, continue_final_message=False, add_generation_prompt=False)[-1] == 2
    assert chat.render(HELLO, add_generation_prompt=False) == asked
    assert chat.complete(begun).text == "x"
    for options in ({"continue_final_message": True, "add_generation_prompt": True}, {"schema": {"type": "object"}}):
        with pytest.raises(UsageError, match=r"not both|only begun"):
            chat.stream(begun, **options)


def test_breaking_off_a_stream_cancels_the_generation(scripted_chat):
    chat = scripted_chat("abcdef", gate=3)
    stream = chat.stream(HELLO)
    assert next(stream).text == "a"
    stream.close()
    assert chat.engine.generations[0].cancelled


def test_closing_a_stream_before_its_first_piece_cancels_too(scripted_chat):
    """A generator that was never started runs no `finally`; the engine worked on for nobody."""
    chat = scripted_chat("abcdef", gate=0)
    chat.stream(HELLO).close()
    asyncio.run(chat.astream(HELLO).aclose())
    chat.stream(HELLO)
    assert [generation.cancelled for generation in chat.engine.generations] == [True] * 3


def test_cancelled_async_reader_cancels_the_generation(scripted_chat):
    chat = scripted_chat("abcdef", gate=1)

    async def main() -> None:
        task = asyncio.ensure_future(chat.acomplete(HELLO))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert chat.engine.generations[0].cancelled


def test_the_event_loop_is_free_while_the_engine_works(scripted_chat):
    chat = scripted_chat("abc", gate=1)

    async def main() -> str:
        task = asyncio.ensure_future(chat.acomplete(HELLO))
        await asyncio.to_thread(chat.engine.reached.wait, 30)
        assert chat.engine.generations[0].finish_reason is None, "the loop was blocked until the gate gave up"
        chat.engine.release.set()
        return (await task).text

    assert asyncio.run(main()) == "abc"


def test_a_prompt_longer_than_the_window_is_an_error_with_both_numbers(scripted_chat):
    with pytest.raises(ContextLengthError, match=r"304 tokens.*window holds 256"):
        scripted_chat("x").stream([{"role": "user", "content": "a" * 300}])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "hi"}],
        [{"role": "user", "content": 3}],
        [{"role": "user"}],
        ["hi"],
        [{"role": "user", "content": "hi", "tool_call_id": "1"}],
        [{"role": "user", "content": "hi", "name": "x"}],
    ],
)
def test_bad_messages_raise_before_the_engine_is_asked(scripted_chat, messages):
    chat = scripted_chat("x")
    with pytest.raises(UsageError):
        chat.stream(messages)
    assert chat.engine.asked == []


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_real_engines_agree_with_plain_generate(home, model_dir, engine):
    """Greedy ids of both engines equal transformers' own generate on the same prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    chat = load(model_dir, engine=engine)
    prompt = chat.render(HELLO)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    generation = chat.engine.submit(prompt, Sampling().over(chat.defaults), max_new_tokens=12)
    assert list(generation) == expected
    assert generation.finish_reason == ("stop" if expected[-1] == 2 else "length")
    chat.close()


def test_unknown_model_and_missing_adapter(home):
    with pytest.raises(NotFoundError, match="no model is called 'lama'"):
        load("lama")
    with pytest.raises(NotFoundError, match="not an adapter directory"):
        load(adapter=home / "nothing")


def test_adapter_on_another_base_model_is_refused(home, trained_adapter, other_model_dir):
    with pytest.raises(ContractError, match="the base model's weights"):
        load(other_model_dir, adapter=trained_adapter)
