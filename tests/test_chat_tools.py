"""Chat with tools and schemas: what the engine is asked, and what becomes of its answer."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from arriero.chat import Reply
from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.errors import ContextLengthError, UnsupportedError, UsageError
from arriero.messages import NamedTool, Sampling, Tool
from tests.conftest import TEMPLATE, TOOL_TEMPLATE, ids_of

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("weather", "Weather now", CITY)
HELLO = [{"role": "user", "content": "hi"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Potosí"}}\n</tool_call>'


@pytest.fixture
def chat(scripted_chat):
    return lambda *answers, **options: scripted_chat(*answers, template=TOOL_TEMPLATE, **options)


def shown(pieces):
    return [(piece.text, [call.name for call in piece.tool_calls]) for piece in pieces]


# --- calls ---


def test_a_call_is_an_answer_of_its_own_kind(chat):
    reply = chat(f"Let me see.\n{CALL}").complete(HELLO, tools=[WEATHER])
    assert (reply.text, reply.finish_reason) == ("Let me see.", "tool_calls")
    (call,) = reply.tool_calls
    assert (call.name, call.values) == ("weather", {"city": "Potosí"})
    assert call.id.startswith("call_")
    assert reply.usage.completion_tokens == len(ids_of(f"Let me see.\n{CALL}")) + 1


def test_text_and_arguments_come_piece_by_piece(chat):
    """Calls came whole: a client saw nothing of a long argument, a file to write, until all of it was made."""
    pieces = list(chat(f"Hm.\n{CALL}\n{CALL}").stream(HELLO, tools=[WEATHER]))
    assert [piece.text for piece in pieces if piece.text] == ["H", "m", "."]
    deltas = [delta for piece in pieces for delta in piece.call_deltas]
    assert [(delta.index, delta.name) for delta in deltas if delta.id] == [(0, "weather"), (1, "weather")]
    assert "".join(delta.arguments for delta in deltas if delta.index == 1) == '{"city": "Potosí"}'
    assert max(len(delta.arguments) for delta in deltas) < 5
    whole = [call for piece in pieces for call in piece.tool_calls]
    assert [call.id for call in whole] == [delta.id for delta in deltas if delta.id]
    assert whole[0].id != whole[1].id
    assert pieces[-1].finish_reason == "tool_calls"


def test_async_readers_get_the_same(chat):
    async def read():
        return [piece async for piece in chat(f"Hm.\n{CALL}").astream(HELLO, tools=[WEATHER])]

    assert [names for _, names in shown(asyncio.run(read())) if names] == [["weather"]]
    reply = asyncio.run(chat(CALL).acomplete(HELLO, tools=[WEATHER]))
    assert (reply.text, reply.finish_reason, len(reply.tool_calls)) == ("", "tool_calls", 1)


@pytest.mark.parametrize("answer", [CALL.replace("weather", "rain"), CALL.replace("{", "(", 1), "<tool_call> is a tag"])
def test_what_is_no_call_of_a_tool_is_text(chat, answer):
    reply = chat(answer).complete(HELLO, tools=[WEATHER])
    assert (reply.text, reply.finish_reason, reply.tool_calls) == (answer, "stop", ())


def test_without_tools_nothing_is_read_as_a_call(chat):
    made = chat(CALL)
    for options in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        assert made.complete(HELLO, **options).text == CALL
    assert made.engine.asked[0][0] == made.engine.asked[1][0], "with none the model is not shown the tools"


def test_a_call_cut_off_before_its_arguments_is_text_unless_it_was_demanded(chat):
    """A demanded call that reached the limit was markup in the content and no call."""
    for choice in ("required", NamedTool("weather")):
        options = {"tools": [WEATHER], "tool_choice": choice}
        reply = chat(CALL).complete(HELLO, Sampling(max_new_tokens=30), **options)
        assert (reply.text, reply.finish_reason) == ("", "length")
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("weather", "")]
    reply = chat(CALL).complete(HELLO, Sampling(max_new_tokens=30), tools=[WEATHER])
    assert (reply.text, reply.finish_reason) == (CALL.encode()[:30].decode(), "length")


def test_a_call_cut_off_by_the_length_has_the_arguments_so_far(chat):
    limit = len(ids_of(CALL.partition("tosí")[0]))
    for choice in ("required", "auto"):
        stream = chat(CALL).stream(HELLO, Sampling(max_new_tokens=limit), tools=[WEATHER], tool_choice=choice)
        reply = Reply.of(pieces := list(stream))
        assert (reply.text, reply.finish_reason) == ("", "length")
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("weather", '{"city": "Po')]
        assert "".join(delta.arguments for piece in pieces for delta in piece.call_deltas) == '{"city": "Po'


def test_without_parallel_calls_the_answer_ends_with_the_first(chat):
    made = chat(f"Hm.\n{CALL}\n{CALL} and so on")
    reply = made.complete(HELLO, tools=[WEATHER], parallel_tool_calls=False)
    assert (reply.text, len(reply.tool_calls), reply.finish_reason) == ("Hm.", 1, "tool_calls")
    assert made.engine.generations[0].cancelled, "the engine is not left to write what nobody gets"
    until = f"Hm.\n{CALL}".partition("}")[0] + "}"  # the end of its arguments
    assert reply.usage.completion_tokens == len(ids_of(until)), "it used to be one more"
    assert len(made.complete(HELLO, tools=[WEATHER]).tool_calls) == 2
    two = '[{"name": "weather", "arguments": {}}, {"name": "weather", "arguments": {}}]'
    whole = chat("[weather(city='a'), weather(city='b')]", f"<tool_call>{two}</tool_call>")
    for _ in range(2):
        assert len(whole.complete(HELLO, tools=[WEATHER], parallel_tool_calls=False).tool_calls) == 1


def test_a_cut_off_call_is_sent_back_and_continued(chat):
    made = chat(CALL, "Sorry.")
    first = made.complete(HELLO, Sampling(max_new_tokens=50), tools=[WEATHER])
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "these arguments are no JSON"}
    assert made.complete([*HELLO, first.message, result], tools=[WEATHER]).text == "Sorry."


def test_an_answer_broken_off_is_cancelled_and_not_a_call(chat):
    made = chat(CALL + "!", gate=len(ids_of(CALL)))
    stream = made.stream(HELLO, tools=[WEATHER])
    assert any(piece.tool_calls for piece in itertools.islice(stream, len('{"city": "Potosí"}')))
    made.engine.generations[0].cancel()
    made.engine.release.set()
    assert [piece.finish_reason for piece in stream] == ["cancelled"]


def test_a_stop_string_cuts_calls_too(chat):
    reply = chat(f"Hm. {CALL}").complete(HELLO, Sampling(stop=("</tool",)), tools=[WEATHER])
    assert (reply.text, reply.finish_reason, len(reply.tool_calls)) == ("Hm.", "tool_calls", 1)
    reply = chat(f"Hm. {CALL}").complete(HELLO, Sampling(stop=("Potosí",)), tools=[WEATHER])
    assert (reply.text, reply.finish_reason) == ("Hm.", "stop"), "not tool_calls: this one cannot be made"
    assert [call.arguments for call in reply.tool_calls] == ['{"city": "']


def test_a_call_and_its_result_go_on_as_a_conversation(chat):
    made = chat(CALL, "It is 12 °C.")
    first = made.complete(HELLO, tools=[WEATHER])
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "12 °C"}
    assert made.complete([*HELLO, first.message, result], tools=[WEATHER]).text == "It is 12 °C."
    sent = bytes(max(token - 6, 0) for token in made.engine.asked[1][0]).decode()
    assert CALL in sent
    assert "<tool_response>\n12 °C" in sent
    assert made.engine.asked[1][0] == made.render([*HELLO, first.message, result], tools=[WEATHER])


def test_a_model_without_a_place_for_tools_calls_them_all_the_same(scripted_chat):
    """Its template was refused with TemplateError, so the embedded model could call nothing."""
    made = scripted_chat(CALL, "It is 12 °C.", template=TEMPLATE)
    first = made.complete(HELLO, tools=[WEATHER], tool_choice="required")
    assert [(call.name, call.values) for call in first.tool_calls] == [("weather", {"city": "Potosí"})]
    assert made.engine.options[0]["constraint"].parts[0] == Text('<tool_call>\n{"name": "weather", "arguments": ')
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "12 °C"}
    assert made.complete([*HELLO, first.message, result], tools=[WEATHER]).text == "It is 12 °C."


# --- constraints ---


def test_what_must_hold_is_a_constraint(chat):
    made = chat("x")
    call = Series((Text('<tool_call>\n{"name": "weather", "arguments": '),
                   JsonSchema({"type": "object", "additionalProperties": False, **CITY}),
                   Text("}\n</tool_call>")))  # fmt: skip
    for options, expected in (
        ({"tools": [WEATHER]}, None),
        ({"tools": [WEATHER], "tool_choice": "required"}, call),
        ({"tools": [WEATHER], "tool_choice": NamedTool("weather")}, call),
        ({"schema": CITY}, JsonSchema(CITY)),
        ({"tools": [WEATHER], "schema": CITY}, Choice((call, JsonSchema(CITY)))),
        ({"tools": [WEATHER], "tool_choice": "none", "schema": CITY}, JsonSchema(CITY)),
    ):
        made.complete(HELLO, **options)
        assert made.engine.options[-1]["constraint"] == expected, options


def test_an_engine_without_constraints_refuses_by_name(chat):
    made = chat("x")
    made.engine.features = frozenset()
    made.complete(HELLO, tools=[WEATHER])
    for options in ({"schema": CITY}, {"tools": [WEATHER], "tool_choice": "required"}):
        with pytest.raises(UnsupportedError, match="does not do constraint"):
            made.stream(HELLO, **options)


def test_an_answer_that_fits_a_schema_is_text(chat):
    answer = '{"city": "Potosí"}'
    made = chat(answer)
    reply = made.complete(HELLO, tools=[WEATHER], schema=CITY)
    assert (reply.text, reply.finish_reason) == (answer, "stop")
    assert made.render(HELLO, schema=CITY) != made.render(HELLO)


def test_tools_and_schemas_count_towards_the_window(chat):
    made = chat("x")
    for options in ({"tools": [Tool("f", "x" * 9000)]}, {"schema": {"description": "x" * 9000}}):
        with pytest.raises(ContextLengthError, match=r"has 9\d{3} tokens.*window holds 8192") as caught:
            made.stream(HELLO, **options)
        assert caught.value.window == 8192
        assert caught.value.prompt_tokens == len(made.render(HELLO, **options))


def test_unknown_options_are_refused(chat):
    with pytest.raises(TypeError, match="tool_choise"):
        chat("x").complete(HELLO, tool_choise="auto")
    with pytest.raises(UsageError, match=r"logit_bias names the token ids \[262\], but .* ends at 261"):
        chat("x").stream(HELLO, Sampling(logit_bias=((261, 1.0), (262, 1.0))))
    for wrong in (21, -1, True, 0.5):
        with pytest.raises(UsageError, match="logprobs must be a whole number from 0 to 20"):
            chat("x").stream(HELLO, logprobs=wrong)
