"""What LangChain's caches tell objects apart by, and objects that are written down and read again."""

from __future__ import annotations

import os
import shutil

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps, loads
from langchain_core.runnables import ConfigurableField

from arriero.errors import NotFoundError, UsageError
from arriero.hub import store
from arriero.langchain import ArrieroLLM, ChatArriero
from arriero.langchain.models import OverChat
from tests.prompt.test_options import OWN

both = pytest.mark.parametrize("kind", [ArrieroLLM, ChatArriero])
OTHER = {
    "system": "Be kind.", "max_new_tokens": 3, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
    "repetition_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 1.0, "seed": 3, "stop": ("x",),
    "logit_bias": ((70, 1.0),), "max_reasoning_tokens": 4, "template": {"mood": "calm"}, "fold_system": True,
    "chat_template": OWN, "base_url": "http://127.0.0.1:9",
}  # fmt: skip
OF_FILES = {"model", "adapter", "engine"}
NO_MATTER = {"chat", "loaded_as", "api_key", "timeout", "max_retries"}


def key(model) -> str:
    """What the model's answers are kept under, besides the prompt."""
    return model._get_llm_string() if isinstance(model, ChatArriero) else str(sorted(model.asdict().items()))


@pytest.fixture
def named(home, model_dir):
    """The settings of a model that is known by its name."""
    path = shutil.copytree(model_dir, home / "models" / "small--tiny")
    store.write_manifest(path, name=path.name, source="huggingface", revision="abc")
    return {"model": "small/tiny", "engine": "transformers"}


@both
def test_every_field_that_an_answer_depends_on_is_part_of_a_caches_key(named, kind):
    """`fold_system` and `chat_template` were not: one object was given the other's answers."""
    fields = {name for name in OverChat.model_fields if not name.startswith("_")}
    assert fields == OTHER.keys() | OF_FILES | NO_MATTER
    keys = {key(kind(**named)): "as it is"}
    for name, value in OTHER.items():
        options = {name: value, "model": "small/tiny"} if name == "base_url" else {**named, name: value}
        assert keys.setdefault(key(kind(**options)), name) == name
    assert key(kind(**named)) in keys


@both
def test_weights_trained_anew_in_the_same_place_answer_anew(named, trained_adapter, tmp_path, kind):
    """A cache gave the answers of the adapter that had been there before."""
    adapter = shutil.copytree(trained_adapter, tmp_path / "killa")
    before = key(kind(**named, adapter=adapter))
    assert before not in (key(kind(**named)), key(kind(**named, adapter=trained_adapter)))
    assert before == key(kind(**named, adapter=str(adapter)))
    os.utime(adapter / "adapter_model.safetensors", ns=(1, 1))
    assert key(kind(**named, adapter=adapter)) != before


def test_another_engine_or_precision_is_another_key(scripted_chat):
    chat, other = scripted_chat("a"), scripted_chat("b")
    other.engine.description = "scripted, int8 weights"
    cache = InMemoryCache()
    assert [ChatArriero(chat=each, cache=cache).invoke("hi").text for each in (chat, other, chat)] == ["a", "b", "a"]


def again(model):
    """The model written down and read."""
    return loads(dumps(model), allowed_objects=[type(model)], valid_namespaces=["arriero"], secrets_from_env=True)


@both
def test_an_object_is_written_with_names_and_read_again(named, kind):
    """It could not be written at all."""
    model = kind(**named, stop=["x"], temperature=0, logit_bias=((70, 1.0),), system="Be kind.", chat_template=OWN)
    assert key(again(model)) == key(model)
    assert again(model).chat is model.chat


def test_no_path_of_this_machine_is_written(named, home, trained_adapter, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text(OWN)
    model = ChatArriero(model=home / "models" / "small--tiny", engine="transformers", chat_template=str(template))
    assert str(tmp_path) not in dumps(model)
    assert key(again(model)) == key(model)
    tuned = ChatArriero(**named, adapter=trained_adapter)
    assert str(trained_adapter.parent) not in dumps(tuned)
    with pytest.raises(NotFoundError, match="killa"):  # and not the base model
        again(tuned)


def test_no_key_is_written(monkeypatch):
    model = ChatArriero(base_url="http://127.0.0.1:9", api_key="anna-secret", model="tiny", adapter="killa", timeout=3)
    assert "anna-secret" not in dumps(model) + repr(model)
    monkeypatch.setenv("ARRIERO_API_KEY", "anna-secret")
    copied = again(model)
    assert (copied.api_key, key(copied), copied.timeout) == (model.api_key, key(model), 3)


def test_a_chat_that_was_handed_in_cannot_be_written(scripted_chat):
    with pytest.raises(NotImplementedError):
        again(ChatArriero(chat=scripted_chat("x")))


@pytest.mark.parametrize("name", ["engine", "template", "fold_system", "chat_template"])
def test_what_loads_a_model_is_refused_for_a_servers(name):
    with pytest.raises(UsageError, match=f"no model is loaded here, got {name}"):
        ChatArriero(base_url="http://127.0.0.1:9", **{name: OTHER.get(name, "transformers")})


def test_copies_of_a_servers_model_are_of_that_server():
    model = ChatArriero(base_url="http://127.0.0.1:9", model="tiny", timeout=3)
    configurable = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
    warmer, _ = configurable.with_config(configurable={"temperature": 0.5}).prepare()
    assert (warmer.temperature, warmer.base_url, warmer.timeout) == (0.5, model.base_url, 3)
