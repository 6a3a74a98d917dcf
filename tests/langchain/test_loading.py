"""LangChain's objects and their weights: loaded once for equal settings, with adapters by call, let go in the end."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import time
import weakref

import pytest

from arriero import hub
from arriero.chat import load
from arriero.errors import ContractError, NotFoundError
from arriero.langchain import ArrieroLLM, ChatArriero, LLaMA3_1_LLM
from arriero.messages import Conversation
from arriero.prompt import Contract, resolve
from tests.conftest import TEMPLATE
from tests.langchain.kinds import HI

PROMPT = "who 1?"
OTHER = TEMPLATE.replace("'<user>'", "'<sys>'")


def settings(model_dir):
    return {"model": model_dir, "engine": "transformers", "temperature": 0, "max_new_tokens": 8}


def test_equal_objects_share_one_model_until_the_last_is_gone(home, model_dir):
    """The second equal object loaded the weights again."""
    first = ChatArriero(**settings(model_dir))
    second = ArrieroLLM(**settings(model_dir), system="Be kind.")
    assert first.chat is second.chat
    engine = weakref.ref(first.chat.engine)
    del first
    gc.collect()
    assert second.invoke(PROMPT)
    del second
    gc.collect()
    assert engine() is None


def test_objects_made_at_once_wait_for_one_load(home, model_dir):
    made = []
    threads = [threading.Thread(target=lambda: made.append(ChatArriero(**settings(model_dir)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model.chat) for model in made}) == 1


def test_other_settings_and_other_files_are_other_chats(home, model_dir, tmp_path):
    copy = shutil.copytree(model_dir, tmp_path / "model")
    first = ChatArriero(**settings(copy))
    assert ChatArriero(**settings(copy), template={"mood": "calm"}).chat is not first.chat
    later = (copy / "model.safetensors").stat().st_mtime_ns + 10**9
    os.utime(copy / "model.safetensors", ns=(later, later))
    second = ChatArriero(**settings(copy))
    assert second.chat.engine is not first.chat.engine


def test_a_closed_model_is_loaded_anew(home, model_dir):
    first = ChatArriero(**settings(model_dir))
    first.chat.close()
    assert ChatArriero(**settings(model_dir)).invoke(PROMPT).text


def test_an_adapter_shares_its_base_models_weights(home, model_dir, trained_adapter):
    base = ChatArriero(**settings(model_dir))
    tuned = ChatArriero(**settings(model_dir), adapter=trained_adapter)
    assert tuned.chat.engine is base.chat.engine
    chat = load(model_dir, adapter=trained_adapter, engine="transformers")
    assert tuned.chat.render([{"role": "user", "content": PROMPT}]) == chat.render(
        [{"role": "user", "content": PROMPT}]
    )
    chat.close()


@pytest.fixture
def adapter_of(trained_adapter, tmp_path):
    """`adapter_of(model_dir, chat_template=…)` -> an adapter of that base model, trained under these settings."""

    def make(model_dir, **prompting):
        adapter = shutil.copytree(trained_adapter, tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}")
        sample = Conversation.of([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
        weights, where = hub.fingerprint(model_dir), str(model_dir)
        renderer = resolve(model_dir, **prompting).renderer
        Contract.of(renderer, sample, base_model=where, base_fingerprint=weights, base_path=where).save(adapter)
        return adapter

    return make


@pytest.mark.parametrize("by", ["argument", "contract"])
def test_an_object_is_not_asked_by_the_chat_template_of_another(home, model_dir, adapter_of, by):
    """The template that a living object was given, or its adapter's contract, went to those made after it."""
    given = {"chat_template": OTHER} if by == "argument" else {"adapter": adapter_of(model_dir, chat_template=OTHER)}
    first = ChatArriero(**settings(model_dir), **given)
    second = ChatArriero(**settings(model_dir))
    assert second.chat.engine is first.chat.engine
    assert second.render("hi") == HI != first.render("hi")


def test_adapters_of_two_base_models_are_held_side_by_side(home, model_dir, other_model_dir, adapter_of):
    """The second was tried over the base model of the first, and refused."""
    adapters = [adapter_of(base) for base in (model_dir, other_model_dir, other_model_dir)]
    options = {"engine": "transformers", "temperature": 0, "max_new_tokens": 8}
    held = [ChatArriero(adapter=adapter, **options) for adapter in adapters]
    assert held[0].chat.engine is not held[1].chat.engine is held[2].chat.engine
    assert [each.chat.renderer.tokenizer.name_or_path for each in held[:2]] == [str(model_dir), str(other_model_dir)]
    with pytest.raises(ContractError, match="the base model's weights"):
        ChatArriero(**settings(other_model_dir), adapter=adapters[0])


def test_a_call_names_an_adapter(home, model_dir, trained_adapter, tmp_path):
    """Prompt and weights of the adapter, for this call only, in all ways to call."""
    base = ChatArriero(**settings(model_dir))
    plain = base.invoke(PROMPT).text
    tuned = ChatArriero(**settings(model_dir), adapter=trained_adapter).invoke(PROMPT).text
    assert tuned != plain
    assert base.invoke(PROMPT, adapter=trained_adapter).text == tuned
    assert asyncio.run(base.ainvoke(PROMPT, adapter=str(trained_adapter))).text == tuned
    assert "".join(chunk.text for chunk in base.bind(adapter=trained_adapter).stream(PROMPT)) == tuned
    assert base.invoke(PROMPT).text == plain == base.invoke(PROMPT, adapter=None).text
    with pytest.raises(NotFoundError):
        base.invoke(PROMPT, adapter=tmp_path / "none")


def test_a_call_with_an_adapter_keeps_what_the_object_says_of_the_prompt(home, model_dir, adapter_of):
    """Variables, folding and chat template were those of the adapter alone."""
    template = "{{ mood }}" + OTHER
    adapter = adapter_of(model_dir, chat_template=template, template={"mood": "x"}, system="Be.")
    options = {**settings(model_dir), "template": {"mood": "y"}, "fold_system": True, "chat_template": template}
    base, tuned = ChatArriero(**options), ChatArriero(**options, adapter=adapter)
    assert base.render("hi", adapter=adapter) == tuned.render("hi")
    assert tuned.render("hi", adapter=None) == base.render("hi") != tuned.render("hi")
    other = ChatArriero(**settings(model_dir), chat_template=OTHER)
    with pytest.raises(ContractError, match="the chat template"):
        other.render("hi", adapter=adapter)


def test_an_adapters_name_on_a_hub_is_understood(home, model_dir, trained_adapter):
    """It was taken for a directory that is not there, by objects and by calls."""
    name = "modelscope:owner/tuned@v1"
    shutil.copytree(trained_adapter, home / "hub-adapters" / "modelscope" / "owner" / "tuned@v1")
    tuned = ChatArriero(**settings(model_dir), adapter=name)
    assert tuned.chat.adapter_name == "tuned@v1"
    base = ChatArriero(**settings(model_dir))
    assert base.invoke(PROMPT, adapter=name).text == tuned.invoke(PROMPT).text != base.invoke(PROMPT).text


def test_the_tutorials_class(home, model_dir, trained_adapter):
    llm = LLaMA3_1_LLM(model_dir, engine="transformers")
    assert LLaMA3_1_LLM(model_name_or_path=str(model_dir), engine="transformers").chat is llm.chat
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert llm.render("hi") == llm.chat.render([system, {"role": "user", "content": "hi"}])
    tuned = LLaMA3_1_LLM(model_dir, adapter=trained_adapter, engine="transformers")
    assert tuned.render("hi") == tuned.chat.render([{"role": "user", "content": "hi"}])


def test_a_second_equal_object_costs_a_fraction_of_the_first(home, model_dir):
    """It loaded the weights again: as long as the first."""
    made, seconds = [], []
    for _ in range(4):
        begun = time.perf_counter()
        made.append(ChatArriero(**settings(model_dir)))
        seconds.append(time.perf_counter() - begun)
    assert min(seconds[1:]) < seconds[0] / 3
