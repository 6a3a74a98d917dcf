"""The older completions, asked for with OpenAI's own client."""

from __future__ import annotations

import openai
import pytest

from tests.conftest import ids_of


@pytest.fixture
def client(serve, scripted_chat):
    """`client("answer", …)` -> (OpenAI's client, the engine)."""
    made = []

    def build(*answers):
        chat = scripted_chat(*answers)
        made.append(openai.OpenAI(base_url=f"{serve(chat=chat).url}/v1", api_key="none", max_retries=0))
        return made[-1], chat.engine

    yield build
    for each in made:
        each.close()


def test_a_text_is_gone_on_from_without_the_chat_template(client):
    asked, engine = client(" there")
    answer = asked.completions.create(model="tiny", prompt="Hello", max_tokens=9)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" there", "stop")
    assert (answer.object, answer.usage.prompt_tokens, answer.usage.completion_tokens) == ("text_completion", 5, 7)
    assert engine.asked[0][0] == ids_of("Hello")
    assert engine.asked[0][2] == 9


def test_sixteen_tokens_are_the_default(client):
    asked, engine = client("x" * 40)
    assert asked.completions.create(model="tiny", prompt="a").choices[0].finish_reason == "length"
    assert engine.asked[0][2] == 16


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ([72, 73], [[72, 73]]),
        (["a", "bc"], [ids_of("a"), ids_of("bc")]),
        ([[72], [73, 74]], [[72], [73, 74]]),
    ],
)
def test_prompts_of_every_shape(client, prompt, expected):
    asked, engine = client("x")
    answer = asked.completions.create(model="tiny", prompt=prompt)
    assert [ids for ids, _, _ in engine.asked] == expected
    assert [choice.index for choice in answer.choices] == list(range(len(expected)))
    assert answer.usage.prompt_tokens == sum(map(len, expected))


def test_answers_are_in_the_order_of_the_prompts(client):
    asked, engine = client("1", "2", "3", "4")
    answer = asked.completions.create(model="tiny", prompt=["a", "b"], n=2, echo=True, seed=5)
    assert [choice.text for choice in answer.choices] == ["a1", "a2", "b3", "b4"]
    assert [sampling.seed for _, sampling, _ in engine.asked] == [5, 6, 5, 6]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 8)


def test_log_probabilities_in_the_older_shape(client):
    asked, _ = client("é!")
    found = asked.completions.create(model="tiny", prompt="a", logprobs=0).choices[0].logprobs
    assert found.tokens == ["bytes:\\xc3", "bytes:\\xa9", "!"]
    assert found.token_logprobs == [0.0, -1.0, -2.0]
    assert len(found.text_offset) == 3


def test_a_stream(client):
    asked, _ = client("ab", "cd")
    texts, reasons, usage = ["", ""], {}, None
    options = {"include_usage": True}
    for chunk in asked.completions.create(
        model="tiny", prompt=["x", "yz"], stream=True, stream_options=options, echo=True
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert (texts, reasons) == (["xab", "yzcd"], {0: "stop", 1: "stop"})
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 6)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"echo": True, "logprobs": 1}, "echo", "log-probabilities of the prompt"),
        ({"best_of": 2}, "best_of", "best_of other than n"),
        ({"suffix": "x"}, "suffix", "the field suffix is not supported"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [-1]}, "prompt[0]", "greater than or equal to 0"),
        ({"prompt": [10**6]}, None, "token ids go from 0 to"),
        ({"prompt": ""}, None, "a prompt needs at least one token"),
        ({"prompt": "a" * 256, "max_tokens": 10}, None, "window holds 256"),
    ],
)
def test_bad_requests_are_refused_by_name(client, change, param, message):
    asked, engine = client("x")
    with pytest.raises(openai.BadRequestError) as caught:
        asked.post("/completions", body={"model": "tiny", "prompt": "a"} | change, cast_to=dict)
    assert message in caught.value.message
    assert caught.value.param == param
    assert engine.asked == []
