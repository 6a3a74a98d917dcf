"""Private names of other libraries: whichever is gone is named here, with its library."""

from __future__ import annotations

from arriero.prompt import compat


def test_transformers_has_its_templates():
    template = compat.compiled("{{ messages | tojson }}{{ strftime_now is defined }}")
    assert template.render(messages=["é<"]) == '["é<"]True', "transformers: _compile_jinja_template"


def test_transformers_has_its_table_of_tokenizers():
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    names = {"MistralCommonBackend", "TokenizersBackend"}  # where mistral-common is installed, and where it is not
    assert TOKENIZER_MAPPING_NAMES["mistral"] in names, "transformers: TOKENIZER_MAPPING_NAMES"
    assert not compat.prefers_mistral_common("qwen2")
    assert not compat.prefers_mistral_common(None)
