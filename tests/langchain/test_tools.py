"""LangChain with tools and structured output: what the engine is asked, and what LangChain gets."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import operator

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from arriero.constraint import Choice, JsonSchema
from arriero.errors import UsageError
from arriero.langchain import ChatArriero
from tests.conftest import TOOL_TEMPLATE


@tool
def weather(city: str) -> str:
    """Weather now."""
    return f"12 °C in {city}"


@tool
def clock() -> str:
    """The time."""
    return "noon"


class City(BaseModel):
    """A city."""

    name: str
    height: int


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Potosí"}}\n</tool_call>'
TWO = f'Hm.\n{CALL}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'


@pytest.fixture
def model(scripted_chat):
    return lambda *answers: ChatArriero(chat=scripted_chat(*answers, template=TOOL_TEMPLATE))


def calls(message):
    return [(call["name"], call["args"]) for call in message.tool_calls]


def test_calls_of_an_answer_and_of_a_stream_are_the_same(model):
    bound = model(TWO).bind_tools([weather, clock])
    expected = [("weather", {"city": "Potosí"}), ("clock", {})]

    async def streamed():
        return [chunk async for chunk in bound.astream("hi")]

    chunks = list(bound.stream("hi"))
    whole = [bound.invoke("hi"), asyncio.run(bound.ainvoke("hi")), sum(chunks[1:], chunks[0])]
    others = asyncio.run(streamed())
    for message in [*whole, sum(others[1:], others[0])]:
        assert (message.text, calls(message)) == ("Hm.", expected)
        assert message.response_metadata["finish_reason"] == "tool_calls"
        assert len({call["id"] for call in message.tool_calls}) == 2
    assert [chunk.text for chunk in chunks[:3]] == ["H", "m", "."]


def test_arguments_of_a_streamed_call_come_as_they_are_made(model):
    """Calls came whole at their end: who streams a long text as an argument saw nothing until then."""
    chunks = list(model(TWO).bind_tools([weather, clock]).stream("hi"))
    parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
    first, second = ([part for part in parts if part["index"] == number] for number in (0, 1))
    assert parts == [*first, *second]
    assert "".join(part["args"] for part in first) == '{"city": "Potosí"}'
    assert len(first) > len("Potosí")
    assert [part["name"] for part in parts if part["name"] is not None] == ["weather", "clock"]
    assert [bool(part["id"]) for part in first] == [True] + [False] * (len(first) - 1)
    grown = list(itertools.accumulate(chunks, operator.add))
    cities = [args["city"] for message in grown for name, args in calls(message) if "city" in args]
    assert list(dict.fromkeys(cities)) == ["", "P", "Po", "Pot", "Poto", "Potos", "Potosí"]
    assert calls(grown[-1]) == [("weather", {"city": "Potosí"}), ("clock", {})]


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_parallel_calls_can_be_switched_off(model, way):
    """It raised: LangChain's name for OpenAI's parameter was an unknown argument."""
    made = model(TWO)

    def answered(**options):
        bound = made.bind_tools([weather, clock], **options)
        return bound.invoke("hi") if way == "invoke" else functools.reduce(operator.add, bound.stream("hi"))

    assert calls(answered(parallel_tool_calls=False)) == [("weather", {"city": "Potosí"})]
    for both in ({}, {"parallel_tool_calls": True}, {"parallel_tool_calls": None}):
        assert len(calls(answered(**both))) == 2


def test_a_loop_of_calls_and_results_gives_the_ids_of_chat_render(model):
    bound = (made := model(TWO, "Cold at noon.")).bind_tools([weather, clock])
    first = bound.invoke("hi")
    results = [{"weather": weather, "clock": clock}[call["name"]].invoke(call) for call in first.tool_calls]
    assert bound.invoke([HumanMessage("hi"), first, *results]).text == "Cold at noon."
    ours = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hm.", "tool_calls": [
            {"id": call["id"], "function": {"name": call["name"], "arguments": json.dumps(call["args"])}}
            for call in first.tool_calls
        ]},
        *({"role": "tool", "content": r.content, "tool_call_id": r.tool_call_id} for r in results),
    ]  # fmt: skip
    definitions = bound.kwargs["tools"]
    assert made.chat.engine.asked[1][0] == made.chat.render(ours, tools=definitions)


@pytest.mark.parametrize(
    ("choice", "demanded"),
    [(None, []), ("auto", []), ("none", []), (False, []), ("any", ["weather", "clock"]), (True, ["weather", "clock"]),
     ("required", ["weather", "clock"]), ("clock", ["clock"]),
     ({"type": "function", "function": {"name": "clock"}}, ["clock"])],
)  # fmt: skip
def test_choices_of_tools(model, choice, demanded):
    made = model("x")
    made.bind_tools([weather, clock], tool_choice=choice).invoke("hi")
    constraint = made.chat.engine.options[0]["constraint"]
    series = constraint.alternatives if isinstance(constraint, Choice) else [constraint] if constraint else []
    assert [part.parts[0].text.split('"')[3] for part in series] == demanded
    shown = bytes(max(token - 6, 0) for token in made.chat.engine.asked[0][0]).decode()
    assert ("Weather now." in shown) == (choice != "none")


def test_structured_output(model):
    answer = '{"name": "Potosí", "height": 4090}'
    made = model(answer)
    city = City(name="Potosí", height=4090)
    assert made.with_structured_output(City).invoke("hi") == city
    assert made.with_structured_output(City.model_json_schema()).invoke("hi") == city.model_dump()
    raw = made.with_structured_output(City, include_raw=True).invoke("hi")
    assert (raw["parsed"], raw["parsing_error"], raw["raw"].text) == (city, None, answer)
    assert made.with_structured_output(method="json_mode").invoke("hi") == city.model_dump()
    asked = [options["constraint"] for options in made.chat.engine.options]
    assert all(isinstance(constraint, JsonSchema) for constraint in asked)
    assert asked[0].schema["required"] == ["name", "height"]
    assert asked[-1].schema == {"type": "object"}


def test_structured_output_that_was_cut_off(model):
    cut = model('{"name": "Potosí", "height": 4090}').with_structured_output(City, include_raw=True, max_new_tokens=9)
    answer = cut.invoke("hi")
    assert answer["parsed"] is None
    assert answer["parsing_error"] is not None
    assert answer["raw"].response_metadata["finish_reason"] == "length"


def test_structured_output_by_a_call(model):
    made = model('<tool_call>\n{"name": "City", "arguments": {"name": "La Paz", "height": 3640}}\n</tool_call>')
    structured = made.with_structured_output(City, method="function_calling")
    assert structured.invoke("hi") == City(name="La Paz", height=3640)
    assert made.chat.engine.options[0]["constraint"].parts[0].text.startswith('<tool_call>\n{"name": "City"')


def test_tools_and_a_response_format_together(model):
    """Agents with a response format send both with every request."""
    made = model(CALL, '{"name": "Potosí", "height": 4090}')
    schema = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
    bound = made.bind_tools([weather], response_format=schema)
    assert calls(bound.invoke("hi")) == [("weather", {"city": "Potosí"})]
    assert json.loads(bound.invoke("hi").text)["height"] == 4090
    kinds = [type(part).__name__ for part in made.chat.engine.options[0]["constraint"].alternatives]
    assert kinds == ["Series", "JsonSchema"]


def test_what_makes_no_sense_is_refused(model):
    made = model("x")
    with pytest.raises(UsageError, match="needs a schema and a method"):
        made.with_structured_output(City, method="grammar")
    with pytest.raises(UsageError, match="needs a schema and a method"):
        made.with_structured_output()
    with pytest.raises(UsageError, match="response_format must be OpenAI's"):
        made.invoke("hi", response_format={"type": "yaml"})
    with pytest.raises(UsageError, match="names 'rain', which is not among the tools weather"):
        made.bind_tools([weather], tool_choice="rain").invoke("hi")
    assert made.chat.engine.asked == []


def test_a_call_that_was_cut_off_is_an_invalid_one(model):
    """Its arguments are no JSON object; LangChain has a place for such calls, and raising would lose the answer."""
    message = model(CALL).bind_tools([weather]).invoke("hi", max_new_tokens=len(CALL.partition("Potosí")[0]))
    assert message.tool_calls == []
    assert [(call["name"], call["args"]) for call in message.invalid_tool_calls] == [("weather", '{"city": "')]


class TestAgents:
    """LangChain's own agent, whose loop is its business; ours is what the engine is asked in it."""

    CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'

    def test_a_loop_that_repeats_the_same_call_ends_with_a_word(self, scripted_chat, caplog):
        """It ended in LangGraph's recursion limit."""
        chat = scripted_chat(*[self.CALL] * 3, "It is cold.", template=TOOL_TEMPLATE)
        agent = create_agent(ChatArriero(chat=chat), [weather, clock])
        turns = agent.invoke({"messages": [("user", "weather in Oslo?")]})["messages"]
        assert turns[-1].text == "It is cold."
        assert [turn.content for turn in turns if turn.type == "tool"] == ["12 °C in Oslo"] * 3
        shown = [chat.renderer.tokenizer.decode(asked[0]) for asked in chat.engine.asked]
        assert ['"name": "weather"' in prompt.partition("<user>")[0] for prompt in shown] == [True, True, True, False]
        assert "weather was called 3 times in a row" in caplog.text

    def test_other_arguments_are_no_repetition(self, scripted_chat):
        others = [self.CALL.replace("Oslo", name) for name in ("Oslo", "Rome", "Oslo", "Rome")]
        chat = scripted_chat(*others, "done", template=TOOL_TEMPLATE)
        turns = create_agent(ChatArriero(chat=chat), [weather]).invoke({"messages": [("user", "?")]})["messages"]
        assert len([turn for turn in turns if turn.type == "tool"]) == 4

    def test_tools_and_a_response_format_together_end(self, scripted_chat):
        final = '<tool_call>\n{"name": "City", "arguments": {"name": "Oslo", "height": 3}}\n</tool_call>'
        for format_, last in ((ToolStrategy(City), final), (ProviderStrategy(City), '{"name": "Oslo", "height": 3}')):
            chat = scripted_chat(self.CALL, last, template=TOOL_TEMPLATE)
            agent = create_agent(ChatArriero(chat=chat), [weather], response_format=format_)
            result = agent.invoke({"messages": [("user", "weather in Oslo?")]})
            assert result["structured_response"] == City(name="Oslo", height=3)

    @pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
    def test_langgraphs_own_agent(self, scripted_chat):
        chat = scripted_chat(self.CALL, "It is cold.", template=TOOL_TEMPLATE)
        agent = create_react_agent(ChatArriero(chat=chat), [weather, clock])
        turns = agent.invoke({"messages": [("user", "weather in Oslo?")]})["messages"]
        assert [turn.text for turn in turns[1:]] == ["", "12 °C in Oslo", "It is cold."]
