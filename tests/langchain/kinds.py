"""What the tests of both kinds of model share; LangChain's own suites are in test_suites.py."""

from __future__ import annotations

import pytest

from arriero.langchain import ArrieroLLM, ChatArriero
from tests.conftest import ids_of

HI = [1, 4, *ids_of("hi"), 2, 5]  # <s> <user> h i </s> <bot>
both = pytest.mark.parametrize("kind", [ArrieroLLM, ChatArriero])


def text(output) -> str:
    """The text of an answer or of a part of one: LLMs give strings, chat models messages."""
    return output if isinstance(output, str) else output.text
