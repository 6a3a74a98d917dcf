"""Parameters of constructors and calls over a scripted engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from arriero.errors import UsageError
from arriero.langchain import ArrieroLLM
from arriero.messages import Sampling
from tests.langchain.kinds import both, text


@both
def test_zero_is_a_value(scripted_chat, kind):
    chat = scripted_chat("x")
    chat.defaults = replace(chat.defaults, temperature=0.7, top_k=50)
    kind(chat=chat, temperature=0, top_k=0, seed=0).invoke("hi")
    kind(chat=chat, temperature=1, seed=5).invoke("hi", temperature=0, seed=0)
    kind(chat=chat).invoke("hi")
    sampling = [asked[1] for asked in chat.engine.asked]
    assert [(s.temperature, s.top_k, s.seed) for s in sampling] == [(0, 0, 0), (0, 50, 0), (0.7, 50, None)]


@both
def test_every_parameter_arrives_from_the_constructor_and_from_a_call(scripted_chat, kind):
    chat = scripted_chat("abcdef")
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.1, "seed": 3, "max_new_tokens": 4}
    assert text(kind(chat=chat, **given, stop=["z"]).invoke("hi")) == "abcd"
    assert text(kind(chat=chat).invoke("hi", **given, stop=["z"])) == "abcd"
    assert [asked[1:] for asked in chat.engine.asked] == [(Sampling(**given, stop=("z",)), 4)] * 2
    assert set(Sampling.__slots__) <= set(kind.model_fields)


@both
def test_langchains_name_for_the_length(scripted_chat, kind):
    chat = scripted_chat("abcdef")
    assert text(kind(chat=chat, max_tokens=2).invoke("hi")) == "ab"
    assert text(kind(chat=chat, max_tokens=2).invoke("hi", max_tokens=3)) == "abc"
    with pytest.raises(UsageError, match="'max_new_tokens' is given twice"):
        kind(chat=chat, max_tokens=2, max_new_tokens=2)


@both
def test_unknown_arguments_of_a_call_are_refused_by_name(scripted_chat, kind):
    chat = scripted_chat("x")
    model = kind(chat=chat)
    with pytest.raises(UsageError, match="'temprature'; did you mean 'temperature'"):
        model.invoke("hi", temprature=1)
    with pytest.raises(UsageError, match="'best_of'"):
        list(model.stream("hi", best_of=2))
    if kind is ArrieroLLM:
        with pytest.raises(UsageError, match="'tools'"):
            model.bind(tools=[]).batch(["hi"])
    with pytest.raises(UsageError, match="'logprobs'"):
        asyncio.run(model.ainvoke("hi", logprobs=True))
    with pytest.raises(UsageError, match="temperature must be between 0 and 2"):
        model.invoke("hi", temperature=3)
    assert chat.engine.asked == []


@both
def test_unknown_arguments_of_the_constructor(scripted_chat, kind):
    with pytest.raises(UsageError, match="'adaptor'; did you mean 'adapter'"):
        kind(adaptor="runs/huanhuan")
    with pytest.raises(UsageError, match="'max_token'; did you mean 'max_tokens'"):
        kind(max_token=3)


@both
@pytest.mark.parametrize("name", ["api_key", "timeout", "max_retries"])
def test_arguments_of_remote_models_are_refused_where_none_is_meant(scripted_chat, kind, name):
    with pytest.raises(UsageError, match=f"^unknown argument '{name}'") as caught:
        kind(chat=scripted_chat("x"), **{name: 1})
    assert "base_url" in caught.value.hint
    with pytest.raises(UsageError, match=f"^unknown argument '{name}'"):
        kind(chat=scripted_chat("x")).invoke("hi", **{name: 1})
