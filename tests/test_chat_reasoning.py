"""Chat with models that think before they answer: what is reasoning, what is text, and what follows it."""

from __future__ import annotations

import pytest

from arriero.chat import Chat
from arriero.constraint import JsonSchema, Reasoned
from arriero.errors import UnsupportedError
from arriero.messages import Message, Sampling, Tool
from arriero.prompt import Renderer
from tests.conftest import ScriptedEngine, ids_of
from tests.prompt.reasoning import BRACKETS, CLOSED, GEMMA4, OPENED, QWEN3, R1, reasoning_tokenizer

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object"}
WEATHER = Tool("weather", "Weather now", {"type": "object", "properties": {"city": {"type": "string"}}})
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Uyuni"}}\n</tool_call>'


def tags_as_ids(text):
    """The tiny tokenizer's ids, with the tags as the tokens they are."""
    before, opening, rest = text.rpartition("<think>")
    thought, closing, after = rest.partition("</think>")
    return ids_of(before) + [OPENED] * bool(opening) + ids_of(thought) + [CLOSED] * bool(closing) + ids_of(after)


@pytest.fixture
def chat():
    """A scripted chat whose tags are tokens: `chat("<think>a</think>b")`."""

    def build(*answers, template=QWEN3, **options):
        engine = ScriptedEngine(*answers, encode=tags_as_ids)
        renderer = Renderer(reasoning_tokenizer(template), (2,), **options)
        defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        return Chat(engine, renderer, model="tiny", adapter=None, window=8192, defaults=defaults)

    return build


@pytest.mark.parametrize(
    ("template", "answer"), [(QWEN3, "<think>\nHm, 好.\n</think>\n\nYes."), (R1, "Hm, 好.\n</think>\n\nYes.")]
)
def test_reasoning_comes_apart_from_the_text_piece_by_piece(chat, template, answer):
    """It was text, and where the prompt had opened it nothing said that it was not the answer."""
    thought = ids_of(answer.removeprefix("<think>").partition("</think>")[0])
    pieces = list(chat(answer, template=template).stream(HELLO))
    assert [piece.reasoning for piece in pieces if piece.reasoning] == ["H", "m", ",", " 好", "."]
    assert [piece.text for piece in pieces if piece.text] == ["Y", "e", "s", "."]
    assert not any(piece.text and piece.reasoning for piece in pieces)
    assert pieces[-1].usage.reasoning_tokens == len(thought) + 1, "and the tag"


def test_gemma_4_s_channel_comes_apart(chat):
    """It was the beginning of the answer, "thought" first, for its tags are special tokens, which are not shown."""
    answer = "<think>thought\nHm.\n</think>Yes."  # whose ids are those of Gemma's tags here
    reply = chat(answer, template=GEMMA4, variables={"enable_thinking": True}).complete(HELLO)
    assert (reply.reasoning, reply.text) == ("Hm.", "Yes.")
    assert chat("Yes.", template=GEMMA4).complete(HELLO).text == "Yes."


def test_a_reply_goes_back_with_its_reasoning(chat):
    answering = chat("<think>Hm.</think>Yes.")
    reply = answering.complete(HELLO)
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("Hm.", "Yes.", "stop")
    assert reply.message == Message("assistant", "Yes.", reasoning_content="Hm.")
    shown = answering.renderer.tokenizer.decode(answering.render([*HELLO, reply.message], add_generation_prompt=False))
    assert "<think>\nHm.\n</think>\n\nYes." in shown


def test_an_answer_that_is_cut_while_it_thinks_has_no_text(chat):
    reply = chat("<think>Hm, hm").complete(HELLO, Sampling(max_new_tokens=4))
    assert (reply.reasoning, reply.text, reply.finish_reason) == ("Hm,", "", "length")


@pytest.mark.parametrize(("variables", "answer"), [({}, "Yes."), ({"enable_thinking": False}, "Yes.")])
def test_an_answer_without_reasoning_is_text_as_it_comes(chat, variables, answer):
    pieces = list(chat(answer, variables=variables).stream(HELLO))
    assert "".join(piece.text for piece in pieces) == "Yes."
    assert not any(piece.reasoning for piece in pieces)


def test_stop_strings_are_looked_for_in_the_answer_only(chat):
    """A blank line is a usual one, and every reasoning has them."""
    reply = chat("<think>One.\n\nTwo.</think>\n\nThree.\n\nFour.").complete(HELLO, Sampling(stop=("\n\n",)))
    assert (reply.reasoning, reply.text, reply.stop) == ("One.\n\nTwo.", "Three.", "\n\n")


def test_calls_are_read_after_reasoning_and_not_in_it(chat):
    answer = f"[THINK]I could write {CALL}[/THINK]{CALL}"
    reply = chat(answer, template=BRACKETS).complete(HELLO, tools=[WEATHER])
    assert reply.reasoning == f"I could write {CALL}"
    assert [call.values for call in reply.tool_calls] == [{"city": "Uyuni"}]
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")


def test_log_probabilities_are_those_of_the_answer(chat):
    """A token's place is counted in characters, of which the reasoning's are not the answer's."""
    reply = chat("<think>Hm.</think>\n\nYes.").complete(HELLO, logprobs=0)
    assert [token.token_id for token in reply.logprobs] == [CLOSED, *ids_of("\n\nYes.")][3:]
    assert [token.logprob for token in reply.logprobs] == [-7.0, -8.0, -9.0, -10.0]


@pytest.mark.parametrize(
    ("template", "variables", "sampling", "schema", "constraint"),
    [
        (QWEN3, {}, {}, None, None),
        (QWEN3, {}, {}, SCHEMA, Reasoned(OPENED, CLOSED, False, JsonSchema(SCHEMA), None, (2,))),
        (QWEN3, {}, {"max_reasoning_tokens": 9}, None, Reasoned(OPENED, CLOSED, False, None, 9, (2,))),
        (R1, {}, {}, SCHEMA, Reasoned(OPENED, CLOSED, True, JsonSchema(SCHEMA), None, (2,))),
        (QWEN3, {"enable_thinking": False}, {"max_reasoning_tokens": 9}, SCHEMA, JsonSchema(SCHEMA)),
    ],
)
def test_what_the_engine_is_held_to(chat, template, variables, sampling, schema, constraint):
    """A schema holds for what follows the reasoning, and from the start where the template has closed that."""
    asked = chat("x", template=template, variables=variables)
    list(asked.stream(HELLO, Sampling(**sampling), schema=schema))
    assert asked.engine.options[0]["constraint"] == constraint


def test_an_engine_that_cannot_constrain_after_reasoning(chat):
    """It does so from the start, as it always did, unless the prompt has opened the reasoning or there is a limit."""
    able, unable = chat("x"), chat("x", template=R1)
    for made in (able, unable):
        made.engine.features = frozenset({"constraint"})
    list(able.stream(HELLO, schema=SCHEMA))
    assert able.engine.options[0]["constraint"] == JsonSchema(SCHEMA)
    for made, sampling, schema in ((able, Sampling(max_reasoning_tokens=9), None), (unable, Sampling(), SCHEMA)):
        with pytest.raises(UnsupportedError, match="does not do constraint_after_reasoning"):
            made.stream(HELLO, sampling, schema=schema)


def test_a_token_that_ends_the_turn_by_the_contract_ends_the_answer(chat):
    """An engine knows the base model's; one that an adapter's own chat template brought would be generated past."""
    reply = chat("Yes<bot>No", template=QWEN3)
    reply.engine.encode = lambda text: [*ids_of("Yes"), 5, *ids_of("No")]
    reply.renderer = Renderer(reply.renderer.tokenizer, (2, 5))
    joined = reply.complete(HELLO)
    assert (joined.text, joined.finish_reason, joined.usage.completion_tokens) == ("Yes", "stop", 4)
