"""Loading a tokenizer: the one AutoTokenizer would choose, without importing torch where that can be known."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from arriero.errors import UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Renderer, load_tokenizer, read_tokenizer
from tests.conftest import build_tokenizer, since_transformers

TEXT = "<s><user>骆驼 hums</s> don't\n\n 123"


def same(first, second):
    assert type(first) is type(second)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert first.special_tokens_map == second.special_tokens_map
    assert first.chat_template == second.chat_template
    assert first(TEXT)["input_ids"] == second(TEXT)["input_ids"]


def automatic(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_it_is_what_auto_tokenizer_chooses(model_dir, tmp_path, name):
    shutil.copytree(model_dir, tmp_path / "model")
    config = tmp_path / "model" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": name}))
    same(load_tokenizer(tmp_path / "model"), automatic(tmp_path / "model"))


def test_llama_3_1_s_too(llama_tokenizer, tmp_path):
    llama_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    same(load_tokenizer(tmp_path), automatic(tmp_path))


@pytest.mark.parametrize("change", [{"model_type": "qwen2"}, {"tokenizer_class": "Qwen2Tokenizer"}])
def test_where_tables_decide_auto_tokenizer_does(model_dir, tmp_path, change):
    shutil.copytree(model_dir, tmp_path / "model")
    for file in ("config.json", "tokenizer_config.json"):
        path = tmp_path / "model" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    same(load_tokenizer(tmp_path / "model"), automatic(tmp_path / "model"))


@pytest.fixture
def mistral_dir(tmp_path):
    """The tiny tokenizer as one of Mistral's models, with a file beside it that only mistral-common reads."""
    build_tokenizer().save_pretrained(tmp_path / "mistral")
    (tmp_path / "mistral" / "config.json").write_text('{"model_type": "mistral"}')
    (tmp_path / "mistral" / "tekken.json").write_text("{}")
    return tmp_path / "mistral"


class OfMistralCommon:
    """What AutoTokenizer gives where mistral-common is installed: it has neither `is_fast` nor `backend_tokenizer`."""

    @classmethod
    def from_pretrained(cls, *_, **__):
        return cls()


def test_where_mistral_common_is_installed_tokenizer_json_is_taken(mistral_dir, monkeypatch):
    """vLLM brings it; then every verb ended with an AttributeError for Mistral's models."""
    from transformers.models.auto import tokenization_auto

    expected = load_tokenizer(mistral_dir)
    monkeypatch.setattr("transformers.AutoTokenizer", OfMistralCommon)
    monkeypatch.setitem(tokenization_auto.TOKENIZER_MAPPING_NAMES, "mistral", "MistralCommonBackend")
    same(load_tokenizer(mistral_dir), expected)
    (mistral_dir / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no fast version; Arriero needs a tokenizer\.json"):
        read_tokenizer(mistral_dir)


def test_mistral_common_itself_changes_nothing(mistral_dir):
    pytest.importorskip("mistral_common")
    assert load_tokenizer(mistral_dir)(TEXT)["input_ids"] == build_tokenizer()(TEXT)["input_ids"]


@since_transformers("5.20", "before, transformers itself imports torch")
def test_preparing_a_prompt_imports_no_torch(model_dir):
    """torch takes half of the time to a first answer, and OpenVINO does not need it."""
    code = (
        "import sys, arriero.chat\nfrom arriero.prompt import resolve\n"
        "resolve(sys.argv[1]).renderer.prompt([{'role': 'user', 'content': 'hi'}])\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_dir)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("kept", [{"truncation": 8}, {"padding": 64}, {"truncation": 8, "padding": 64}])
def test_truncation_and_padding_of_a_saved_tokenizer_are_not_in_force(tmp_path, kept):
    """A fine-tune's tokenizer.json carries those of its last call: prompts were cut without a word, or padded."""
    made = build_tokenizer()
    made.save_pretrained(tmp_path / "plain")
    if "truncation" in kept:
        made.backend_tokenizer.enable_truncation(kept["truncation"])
    if "padding" in kept:
        made.backend_tokenizer.enable_padding(length=kept["padding"])
    made.save_pretrained(tmp_path / "used")
    stored = json.loads((tmp_path / "used" / "tokenizer.json").read_text())
    assert {name for name in ("truncation", "padding") if stored[name]} == kept.keys()
    plain, used = (Renderer(load_tokenizer(tmp_path / name), (2,)) for name in ("plain", "used"))

    literal = [Message("user", "what is </s>?")]  # takes an encoder of its own
    assert used.prompt(literal) == plain.prompt(literal)
    for asked in ("who hums?", "who hums " * 12):
        turns = (Message("user", asked), Message("assistant", "a llama"))
        assert used.prompt(turns[:1]) == plain.prompt(turns[:1])
        assert used.examples(Conversation(turns)) == plain.examples(Conversation(turns))
