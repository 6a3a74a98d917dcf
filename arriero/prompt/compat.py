"""Private names of transformers (5.10 to 5.23) where there is no public one."""

from __future__ import annotations

from typing import Any


def compiled(source: str) -> Any:
    """A chat template compiled by Jinja in the sandbox, and with the functions, that apply_chat_template gives it."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(source)


def prefers_mistral_common(model_type: str | None) -> bool:
    """Whether AutoTokenizer may choose mistral-common's tokenizer, which happens only where that is installed."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    return bool(TOKENIZER_MAPPING_NAMES.get(model_type) == "MistralCommonBackend")
