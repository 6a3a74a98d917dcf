"""How objects are loaded, copied, cached, traced and imported."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField

from arriero.chat import load
from arriero.engines.registry import EngineName
from arriero.errors import NotFoundError, UsageError
from arriero.langchain import ArrieroLLM, ChatArriero
from arriero.messages import Sampling
from tests.langchain.kinds import both, text
from tests.prompt.reasoning import QWEN3
from tests.prompt.test_options import OWN


@both
def test_a_model_is_loaded_with_the_object(home, model_dir, kind):
    chat = load(model_dir, engine="transformers")
    expected = chat.complete([{"role": "user", "content": "hi"}], Sampling(max_new_tokens=8)).text
    model = kind(model_name_or_path=str(model_dir), engine="transformers", max_new_tokens=8)
    assert text(model.invoke("hi")) == expected
    assert (model.chat.model, model.model) == ("tiny", str(model_dir))
    chat.close()
    model.chat.close()


@both
def test_copies_that_langchain_makes_share_the_loaded_model(home, model_dir, other_model_dir, kind):
    model = kind(model=model_dir, engine="transformers")
    fields = {name: ConfigurableField(id=name) for name in ("temperature", "model")}
    configurable = model.configurable_fields(**fields)
    warmer, _ = configurable.with_config(configurable={"temperature": 0.5}).prepare()
    assert (warmer.temperature, warmer.chat) == (0.5, model.chat)
    other, _ = configurable.with_config(configurable={"model": other_model_dir}).prepare()
    assert (other.chat.model, model.chat.model) == ("other", "tiny")
    other.chat.close()
    model.chat.close()


@both
def test_wrong_options_raise_before_anything_is_loaded(home, scripted_chat, kind):
    with pytest.raises(NotFoundError, match="no model is called 'lama'"):
        kind(model="lama")
    with pytest.raises(UsageError, match="temperature must be between"):
        kind(model="lama", temperature=9)
    with pytest.raises(UsageError, match="either a chat, or"):
        kind(model="lama", chat=scripted_chat("x"))
    assert get_args(kind.model_fields["engine"].annotation) == get_args(EngineName)


@both
def test_a_cache_tells_objects_apart_by_what_an_answer_depends_on(scripted_chat, kind):
    chat, cache = scripted_chat("a", "b", "c", "d"), InMemoryCache()
    options = [{}, {"system": "Be kind."}, {"temperature": 0}, {"stop": ["x"]}]
    first = [text(kind(chat=chat, cache=cache, **option).invoke("hi")) for option in options]
    again = [text(kind(chat=chat, cache=cache, **option).invoke("hi")) for option in options]
    assert first == again == ["a", "b", "c", "d"]
    assert len(chat.engine.asked) == 4


def test_tracing_names(scripted_chat):
    chat = scripted_chat("x")
    model = ChatArriero(chat=chat, temperature=0, max_new_tokens=9, stop=["a"])
    assert model._get_ls_params(stop=["b"]) == {
        "ls_provider": "arriero",
        "ls_model_name": "tiny",
        "ls_model_type": "chat",
        "ls_temperature": 0,
        "ls_max_tokens": 9,
        "ls_stop": ["a", "b"],
    }
    assert ArrieroLLM(chat=chat)._get_ls_params()["ls_model_type"] == "llm"
    assert (ArrieroLLM(chat=chat)._llm_type, model._llm_type) == ("arriero", "arriero-chat")


@both
def test_tokens_are_counted_by_the_models_own_tokenizer(scripted_chat, kind):
    chat = scripted_chat("x")
    assert kind(chat=chat).get_num_tokens("a骆") == 4
    assert kind(chat=chat, custom_get_token_ids=lambda words: [0]).get_num_tokens("a骆") == 1


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_without_langchain_core_the_error_says_what_to_install():
    done = python("import sys; sys.modules['langchain_core'] = None; import arriero.langchain")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        'ImportError: arriero.langchain needs langchain-core: pip install "arriero[langchain]"'
    )


def test_the_import_loads_no_heavy_package():
    heavy = "{'torch', 'transformers', 'openvino', 'peft'}"
    done = python(f"import sys, arriero.langchain; print(sorted({heavy} & set(sys.modules)))")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_reasoning_comes_beside_the_content_and_goes_back(scripted_chat):
    """As `additional_kwargs["reasoning_content"]`, where LangChain's own models of DeepSeek and Ollama have it."""
    model = ChatArriero(chat=scripted_chat("<think>hm</think>yes", template=QWEN3))
    answer = model.invoke("hi")
    assert (answer.content, answer.additional_kwargs["reasoning_content"]) == ("yes", "hm")
    chunks = list(model.stream("hi"))
    whole = sum(chunks[1:], chunks[0])
    assert (whole.content, whole.additional_kwargs["reasoning_content"]) == ("yes", "hm")
    engine, decode = model.chat.engine, model.chat.renderer.tokenizer.decode
    model.invoke([HumanMessage("hi"), answer])
    assert decode(engine.asked[-1][0]).endswith("<bot><think>\nhm\n</think>\n\nyes")
    model.invoke("hi", chat_template_kwargs={"enable_thinking": False})
    assert decode(engine.asked[-1][0]).endswith("<bot><think>\n\n</think>\n\n")


def test_what_is_said_of_the_prompt_loads_the_model(model_dir, tmp_path):
    (tmp_path / "own.jinja").write_text(OWN)
    model = ChatArriero(
        model=model_dir, engine="transformers", template={"mood": "x"}, fold_system=True,
        chat_template=str(tmp_path / "own.jinja"), system="Be.", max_reasoning_tokens=9,
    )  # fmt: skip
    try:
        ids = model.chat.render([{"role": "system", "content": "Be."}, {"role": "user", "content": "hi"}])
        assert model.chat.renderer.tokenizer.decode(ids) == "x<user>Be.\n\nhi<pad><bot>"
    finally:
        model.chat.close()
