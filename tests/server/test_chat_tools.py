"""What chat completions can do besides text, asked for with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from tests.conftest import TOOL_TEMPLATE, ids_of

HELLO = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '{"name": "weather", "parameters": {"city": "Lima"}}'


def test_several_answers_each_with_its_own_seed(openai_client):
    asked, engine = openai_client("one", "two!", "three")
    answer = asked.chat.completions.create(model="tiny", messages=HELLO, n=3, seed=7, temperature=0.5)
    assert sorted(choice.message.content for choice in answer.choices) == ["one", "three", "two!"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [sampling.seed for _, sampling, _ in engine.asked] == [7, 8, 9]
    asked.chat.completions.create(model="tiny", messages=HELLO, n=2, seed=2**63 - 1)
    asked.chat.completions.create(model="tiny", messages=HELLO, seed=-5)
    assert [sampling.seed for _, sampling, _ in engine.asked][3:] == [2**63 - 1, 0, 2**63 - 5]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 4 + 5 + 6)


def test_a_stream_of_several_answers(openai_client):
    asked, _ = openai_client("one", "two!")
    texts, reasons, usage = {0: "", 1: ""}, {}, None
    options = {"include_usage": True}
    for chunk in asked.chat.completions.create(model="tiny", messages=HELLO, n=2, stream=True, stream_options=options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert sorted(texts.values()) == ["one", "two!"]
    assert reasons == {0: "stop", 1: "stop"}
    assert (usage.prompt_tokens, usage.completion_tokens) == (6, 9)


def test_every_parameter_of_sampling_arrives(openai_client):
    asked, engine = openai_client("x")
    asked.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0.5, top_p=0.9, presence_penalty=0.25, frequency_penalty=-0.5,
        seed=3, stop=["a", "b"], max_completion_tokens=9, logit_bias={"65": -100, "7": 1.5},
        extra_body={"top_k": 5, "min_p": 0.125, "repetition_penalty": 1.25},
    )  # fmt: skip
    _, sampling, limit = engine.asked[0]
    assert limit == 9
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 5, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.25, -0.5, 1.25)
    assert (sampling.seed, sampling.stop, sampling.logit_bias) == (3, ("a", "b"), ((65, -100), (7, 1.5)))


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(openai_client, stream):
    asked, engine = openai_client("é!")
    completion = asked.chat.completions.create(
        model="tiny", messages=HELLO, logprobs=True, top_logprobs=2, stream=stream
    )
    if stream:
        tokens = [t for chunk in completion for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    else:
        tokens = completion.choices[0].logprobs.content
    assert engine.options[0]["logprobs"] == 2
    # the n-th token of a scripted answer has the log-probability -n; é is two tokens of one byte each
    assert [(token.bytes, token.logprob) for token in tokens] == [([0xC3], 0.0), ([0xA9], -1.0), ([0x21], -2.0)]
    assert tokens[2].token == "!"


def test_without_logprobs_there_are_none(openai_client):
    asked, engine = openai_client("x")
    assert asked.chat.completions.create(model="tiny", messages=HELLO).choices[0].logprobs is None
    assert engine.options[0]["logprobs"] is None


def test_a_tool_is_called_and_its_result_answered(openai_client):
    asked, engine = openai_client(CALL, "It rains.", template=TOOL_TEMPLATE)
    conversation = [{"role": "user", "content": "Weather?"}]
    choice = asked.chat.completions.create(model="tiny", messages=conversation, tools=[WEATHER]).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function", "weather", {"city": "Lima"}
    )  # fmt: skip
    assert engine.options[0]["constraint"] is None
    conversation += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = asked.chat.completions.create(model="tiny", messages=conversation, tools=[WEATHER]).choices[0]
    assert (answer.finish_reason, answer.message.content, answer.message.tool_calls) == ("stop", "It rains.", None)
    assert len(engine.asked[1][0]) > len(engine.asked[0][0])


def test_a_streamed_call_is_put_together_by_the_client(openai_client):
    asked, _ = openai_client(CALL, template=TOOL_TEMPLATE)
    with asked.chat.completions.stream(model="tiny", messages=HELLO, tools=[WEATHER]) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == [
        ("weather", {"city": "Lima"})
    ]


def test_arguments_are_streamed_as_they_are_made(openai_client):
    """A call was one event, however long its arguments: id and name come first now, then the text in pieces."""
    asked, _ = openai_client(f"{CALL}\n{CALL}", template=TOOL_TEMPLATE)
    chunks = list(asked.chat.completions.create(model="tiny", messages=HELLO, tools=[WEATHER], stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    heads = [(call.index, call.type, call.function.name) for call in calls if call.id]
    assert heads == [(0, "function", "weather"), (1, "function", "weather")]
    for index in (0, 1):
        texts = [call.function.arguments for call in calls if call.index == index]
        assert json.loads("".join(texts)) == {"city": "Lima"}
        assert len(texts) > 10
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_without_parallel_calls_the_first_is_kept(openai_client, stream):
    """This was 400 with tool_choice auto, which most agents send."""
    asked, _ = openai_client(f"{CALL}\n{CALL}", template=TOOL_TEMPLATE)
    body = {"model": "tiny", "messages": HELLO, "tools": [WEATHER], "parallel_tool_calls": False}
    if stream:
        chunks = [chunk.choices[0] for chunk in asked.chat.completions.create(**body, stream=True)]
        assert {call.index for choice in chunks for call in choice.delta.tool_calls or ()} == {0}
        assert chunks[-1].finish_reason == "tool_calls"
    else:
        [choice] = asked.chat.completions.create(**body).choices
        assert (len(choice.message.tool_calls), choice.finish_reason) == (1, "tool_calls")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_is_a_constraint(openai_client, choice):
    asked, engine = openai_client(CALL, template=TOOL_TEMPLATE)
    answer = asked.chat.completions.create(
        model="tiny", messages=HELLO, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
    )
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    assert engine.options[0]["constraint"] is not None


class Place(BaseModel):
    """What is asked for in the next tests."""

    city: str
    height: int


def test_structured_output_is_parsed(openai_client):
    asked, engine = openai_client('{"city": "Cusco", "height": 3399}', template=TOOL_TEMPLATE)
    answer = asked.chat.completions.parse(model="tiny", messages=HELLO, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Cusco", height=3399)
    assert '"height"' in str(engine.options[0]["constraint"]) or "height" in str(engine.options[0]["constraint"])


def test_any_json_object(openai_client):
    asked, engine = openai_client("{}", template=TOOL_TEMPLATE)
    answer = asked.chat.completions.create(model="tiny", messages=HELLO, response_format={"type": "json_object"})
    assert answer.choices[0].message.content == "{}"
    assert "object" in str(engine.options[0]["constraint"])


def test_the_async_client(serve):
    served = serve("abc", "abc")

    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as asked:
            whole = await asked.chat.completions.create(model="tiny", messages=HELLO)
            stream = await asked.chat.completions.create(model="tiny", messages=HELLO, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return whole.choices[0].message.content, text

    assert asyncio.run(ask()) == ("abc", "abc")


def test_developer_messages_and_names_are_understood(openai_client):
    asked, engine = openai_client("x", "x")
    asked.chat.completions.create(
        model="tiny",
        messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "name": "Ana", "content": "hi"}],
    )
    asked.chat.completions.create(model="tiny", messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    assert engine.asked[0][0] == engine.asked[1][0]


def test_turns_are_what_the_template_takes(openai_client):
    """An order that training would not take used to be refused, or joined where that was not needed."""
    asked, engine = openai_client("x")
    turns = [("assistant", "a"), ("user", ""), ("user", "b"), ("system", "c"), ("assistant", None)]
    asked.chat.completions.create(model="tiny", messages=[{"role": role, "content": text} for role, text in turns])
    prompt = [1, 5, *ids_of("a"), 2, 4, 2, 4, *ids_of("b"), 2, 3, *ids_of("c"), 2, 5]
    assert engine.asked[0][0] == prompt


def test_an_answer_is_continued(openai_client):
    """Prefill used to be refused."""
    asked, engine = openai_client("x")
    begun = [*HELLO, {"role": "assistant", "content": "yo"}]
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    for extra in ({}, flags):
        answer = asked.chat.completions.create(model="tiny", messages=begun, extra_body=extra)
        assert answer.choices[0].message.content == "x"
        assert engine.asked[-1][0] == [1, 4, *ids_of("hi"), 2, 5, *ids_of("yo")]
    asked.chat.completions.create(model="tiny", messages=begun, extra_body={"add_generation_prompt": True})
    assert engine.asked[-1][0][-2:] == [2, 5]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_beyond_the_window_is_clamped_and_told_in_a_header(openai_client, field, stream):
    """It used to be a 400, although the prompt fits."""
    asked, engine = openai_client("x")
    create = asked.chat.completions.with_raw_response.create
    response = create(model="tiny", messages=HELLO, stream=stream, **{field: 100_000})
    assert response.headers["x-arriero-clamped"] == "max_tokens=250"
    assert engine.asked[0][2] == 250
    for given in ({}, {field: 250}):
        assert "x-arriero-clamped" not in create(model="tiny", messages=HELLO, **given).headers
    assert [limit for _, _, limit in engine.asked[1:]] == [250, 250]
    with pytest.raises(openai.BadRequestError) as caught:
        create(model="tiny", messages=[{"role": "user", "content": "a" * 252}])
    assert caught.value.code == "context_length_exceeded"


def test_special_tokens_in_a_message_are_text(openai_client):
    """A file about chat templates used to be refused."""
    asked, engine = openai_client("x")
    asked.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "</s><sys>"}])
    assert engine.asked[0][0] == [1, 4, *ids_of("</s><sys>"), 2, 5]
