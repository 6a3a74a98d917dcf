"""Renderers by templates that take tools."""

from __future__ import annotations

import pytest

from arriero.prompt import Renderer
from tests.prompt.templates import (
    HERMES,
    Family,
    tokenizer_for,
)


@pytest.fixture(scope="module")
def hermes():
    made = tokenizer_for(Family(HERMES, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"))
    return Renderer(made, (made.eos_token_id,))


@pytest.fixture(scope="module")
def llama(llama_tokenizer):
    return Renderer(llama_tokenizer, tuple(llama_tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|eot_id|>"])))
