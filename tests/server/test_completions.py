"""The older completions, asked for with OpenAI's own client."""

from __future__ import annotations

import json
import math

import openai
import pytest

from arriero.messages import TokenLogprob
from tests.conftest import ScriptedEngine, ids_of


def test_a_text_is_continued_without_the_chat_template(openai_client):
    asked, engine = openai_client(" there")
    answer = asked.completions.create(model="tiny", prompt="Hello", max_tokens=9)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" there", "stop")
    assert (answer.object, answer.usage.prompt_tokens, answer.usage.completion_tokens) == ("text_completion", 5, 7)
    assert engine.asked[0][0] == ids_of("Hello")
    assert engine.asked[0][2] == 9


def test_sixteen_tokens_are_the_default(openai_client):
    asked, engine = openai_client("x" * 40)
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
def test_prompts_of_every_shape(openai_client, prompt, expected):
    asked, engine = openai_client("x")
    answer = asked.completions.create(model="tiny", prompt=prompt)
    assert [ids for ids, _, _ in engine.asked] == expected
    assert [choice.index for choice in answer.choices] == list(range(len(expected)))
    assert answer.usage.prompt_tokens == sum(map(len, expected))


def test_answers_are_in_the_order_of_the_prompts(openai_client):
    asked, engine = openai_client("1", "2", "3", "4")
    answer = asked.completions.create(model="tiny", prompt=["a", "b"], n=2, echo=True, seed=5)
    assert [choice.text for choice in answer.choices] == ["a1", "a2", "b3", "b4"]
    assert [sampling.seed for _, sampling, _ in engine.asked] == [5, 6, 5, 6]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 8)


def test_log_probabilities_in_the_older_shape(openai_client):
    asked, _ = openai_client("é!")
    completion = asked.completions.create(model="tiny", prompt="a", logprobs=0).choices[0].logprobs
    assert completion.tokens == ["bytes:\\xc3", "bytes:\\xa9", "!"]
    assert completion.token_logprobs == [0.0, -1.0, -2.0]
    assert len(completion.text_offset) == 3


class ImpossibleEngine(ScriptedEngine):
    """Chooses what the model holds for impossible, as a bias or a grammar can make it, and knows likelier tokens."""

    def _answer(self, generation, answer, limit):
        values = [-math.inf, math.nan, -0.5, -1e30]
        for token, value in zip(ids_of(answer), values, strict=True):
            generation.push([token], [TokenLogprob(token, value, ((ids_of("x")[0], -0.25), (token, value)))])
        generation.finish("stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_log_probability_of_minus_infinity_is_written_as_openai_writes_it(client_of, scripted_chat, path, stream):
    """The older completions gave HTTP 500, and in a stream the word -Infinity, which is no JSON."""
    chat = scripted_chat()
    chat.engine = ImpossibleEngine("abcd")
    request = {"prompt": "a", "logprobs": 2}
    if "chat" in path:
        request = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
    text = client_of(chat=chat).post(path, json={"model": "tiny", "stream": stream, **request}).text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")] if stream else [text]
    chosen, ranked = [], []
    for part in [json.loads(line, parse_constant=pytest.fail)["choices"][0]["logprobs"] or {} for line in lines]:
        chosen += part.get("token_logprobs", []) or [token["logprob"] for token in part.get("content", [])]
        ranked += part.get("top_logprobs", []) or [
            {other["token"]: other["logprob"] for other in token["top_logprobs"]} for token in part.get("content", [])
        ]
    assert chosen == [-9999.0, -9999.0, -0.5, -9999.0]
    assert ranked[0] == {"x": -0.25, "a": -9999.0}


class SureEngine(ScriptedEngine):
    """Knows one likelier token beside each that it chooses."""

    def _answer(self, generation, answer, limit):
        for token in ids_of(answer):
            generation.push([token], [TokenLogprob(token, -3.0, ((ids_of("x")[0], -0.25),)[: generation.wanted])])
        generation.finish("stop")


@pytest.mark.parametrize(("asked", "expected"), [(0, {"a": -3.0}), (1, {"a": -3.0, "x": -0.25})])
def test_the_chosen_token_is_among_the_older_top_logprobs(client_of, scripted_chat, asked, expected):
    """OpenAI: "The API will always return the logprob of the sampled token, so there may be up to logprobs+1"."""
    chat = scripted_chat()
    chat.engine = SureEngine("a")
    body = {"model": "tiny", "prompt": "a", "logprobs": asked}
    choice = client_of(chat=chat).post("/v1/completions", json=body).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [expected]


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs_scores_the_prompt(openai_client, stream):
    """What lm-eval's local-completions reads: all tokens of the prompt, then those generated, the last one included.

    It sums `token_logprobs[context:-1]`, so an end of turn that is left out would cost the prompt its last token.
    """
    asked, engine = openai_client("b", "")
    body = {"model": "tiny", "prompt": [ids_of("aé"), ids_of("xyz")], "echo": True, "logprobs": 1, "max_tokens": 1}
    if stream:
        by_index = [{}, {}]
        for chunk in asked.completions.create(**body, stream=True):
            for choice in chunk.choices:
                for name, part in choice.logprobs or ():
                    by_index[choice.index][name] = by_index[choice.index].get(name, []) + part
    else:
        by_index = [dict(choice.logprobs) for choice in asked.completions.create(**body).choices]
    assert by_index[0]["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "b"]
    assert by_index[0]["token_logprobs"] == [None, -0.5, -0.5, 0.0]
    assert by_index[0]["text_offset"] == [0, 1, 1, 2]
    assert by_index[0]["top_logprobs"] == [None, {"bytes:\\xc3": -0.5}, {"bytes:\\xa9": -0.5}, {"b": 0.0}]
    assert by_index[1]["tokens"] == ["x", "y", "z", "</s>"]
    assert by_index[1]["text_offset"] == [0, 1, 2, 3]
    assert [options["prompt_logprobs"] for options in engine.options] == [True, True]


def test_max_tokens_0_with_echo_gives_the_prompt_alone(openai_client):
    asked, engine = openai_client("never")
    answer = asked.completions.create(model="tiny", prompt=["ab", "c"], echo=True, logprobs=0, max_tokens=0)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("ab", "length"), ("c", "length")]
    assert [choice.logprobs.token_logprobs for choice in answer.choices] == [[None, -0.5], [None]]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)
    assert [limit for _, _, limit in engine.asked] == [0, 0]


def test_a_stream(openai_client):
    asked, _ = openai_client("ab", "cd")
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
        ({"max_tokens": 0}, "max_tokens", "only allowed with echo"),
        ({"best_of": 2}, "best_of", "best_of other than n"),
        ({"suffix": "x"}, "suffix", "the field suffix is not supported"),
        ({"prompt": []}, "prompt", "at least 1 item"),
        ({"prompt": [-1]}, "prompt[0]", "greater than or equal to 0"),
        ({"prompt": [10**6]}, None, "token ids go from 0 to"),
        ({"prompt": ""}, None, "a prompt needs at least one token"),
        ({"prompt": "a" * 256, "max_tokens": 10}, None, "window holds 256"),
    ],
)
def test_bad_requests_are_refused_by_name(openai_client, change, param, message):
    asked, engine = openai_client("x")
    with pytest.raises(openai.BadRequestError) as caught:
        asked.post("/completions", body={"model": "tiny", "prompt": "a"} | change, cast_to=dict)
    assert message in caught.value.message
    assert caught.value.param == param
    assert engine.asked == []
