"""Messages and prompts that reach a scripted engine, and chains of them."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from arriero.errors import UsageError
from arriero.langchain import ArrieroLLM, ChatArriero
from tests.conftest import TOOL_TEMPLATE, ids_of
from tests.langchain.kinds import HI, both


def test_a_text_prompt_is_one_user_message(scripted_chat):
    chat = scripted_chat("hello")
    assert ArrieroLLM(chat=chat).invoke("hi") == "hello"
    assert chat.engine.asked[0][0] == HI == chat.render([{"role": "user", "content": "hi"}])


def test_a_conversation_gives_the_ids_of_chat_render(scripted_chat):
    chat = scripted_chat("x")
    turns = [SystemMessage("Be kind."), HumanMessage("hi"), AIMessage("yo"), HumanMessage("骆")]
    ChatArriero(chat=chat).invoke(turns)
    system, last = ids_of("Be kind."), ids_of("骆")
    expected = [1, 3, *system, 2, 4, *ids_of("hi"), 2, 5, *ids_of("yo"), 2, 4, *last, 2, 5]
    assert chat.engine.asked[0][0] == expected
    roles = ["system", "user", "assistant", "user"]
    ours = [{"role": role, "content": turn.content} for role, turn in zip(roles, turns, strict=True)]
    assert chat.render(ours) == expected


@both
def test_the_system_field_goes_in_front(scripted_chat, kind):
    chat = scripted_chat("x")
    kind(chat=chat, system="Be kind.").invoke("hi")
    assert chat.engine.asked[0][0] == [1, 3, *ids_of("Be kind."), 2, *HI[1:]]


def test_a_system_message_replaces_the_system_field(scripted_chat):
    chat = scripted_chat("x")
    ChatArriero(chat=chat, system="Be kind.").invoke([("system", "Be brief."), ("human", "hi")])
    assert chat.engine.asked[0][0] == [1, 3, *ids_of("Be brief."), 2, *HI[1:]]


def test_text_parts_are_joined_and_messages_in_a_row_are_turns(scripted_chat):
    chat = scripted_chat("x")
    parts = HumanMessage(content=["a", {"type": "text", "text": "b"}])
    ChatArriero(chat=chat).invoke([parts, HumanMessage("c")])
    assert chat.engine.asked[0][0] == [1, 4, *ids_of("ab"), 2, 4, *ids_of("c"), 2, 5]


def test_an_ai_message_at_the_end_is_continued(scripted_chat):
    """It used to be refused, and with it prefill."""
    chat = scripted_chat("!")
    assert ChatArriero(chat=chat).invoke([HumanMessage("hi"), AIMessage("yo")]).content == "!"
    assert chat.engine.asked[0][0] == [*HI, *ids_of("yo")]


def test_calls_that_are_not_json_are_shown_as_text(scripted_chat):
    """They used to end the conversation."""
    chat = scripted_chat("x", template=TOOL_TEMPLATE)
    wrong = AIMessage("", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None}])
    ChatArriero(chat=chat).invoke([HumanMessage("hi"), wrong, ToolMessage("not JSON", tool_call_id="1")])
    assert '{"name": "f", "arguments": "{"}' in chat.renderer.tokenizer.decode(chat.engine.asked[0][0])


def test_an_answer_can_be_sent_back(scripted_chat):
    chat = scripted_chat("yo")
    model = ChatArriero(chat=chat, output_version="v1")  # its content is a list of parts
    model.invoke([HumanMessage("hi"), model.invoke("hi"), HumanMessage("hi")])
    assert chat.engine.asked[1][0] == [*HI, *ids_of("yo"), 2, *HI[1:]]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (FunctionMessage("3", name="f"), "FunctionMessage"),
        (ChatMessage("hi", role="user"), "ChatMessage"),
        (HumanMessage([{"type": "image", "url": "http://127.0.0.1/a.png"}]), "type image"),
    ],
)
def test_what_the_model_cannot_be_given_is_named(scripted_chat, message, named):
    chat = scripted_chat("x")
    with pytest.raises(UsageError, match=named):
        ChatArriero(chat=chat).invoke([HumanMessage("hi"), message])
    assert chat.engine.asked == []


def test_chains(scripted_chat):
    chat = scripted_chat("yes")
    for prompt, model in (
        (ChatPromptTemplate.from_messages([("system", "Be kind."), ("human", "{word}")]), ChatArriero(chat=chat)),
        (PromptTemplate.from_template("{word}"), ArrieroLLM(chat=chat, system="Be kind.")),
    ):
        chain = prompt | model | StrOutputParser()
        assert chain.invoke({"word": "hi"}) == "yes"
        assert "".join(chain.stream({"word": "hi"})) == "yes"
    expected = [1, 3, *ids_of("Be kind."), 2, *HI[1:]]
    assert [asked[0] for asked in chat.engine.asked] == [expected] * 4
