"""Models for graphs, and buckets small enough to be left."""

from __future__ import annotations

import random

import pytest
from transformers import AutoModelForCausalLM

from arriero.engines.transformers import cache, graphs
from tests.engines.transformers.graphs.support import MOST_TOKENS
from tests.engines.transformers.support import generated, random_model


@pytest.fixture(scope="module", autouse=True)
def small_buckets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "LEAST", 8)
        patch.setattr(graphs, "PATIENCE", 0)
        yield


@pytest.fixture(scope="package")  # `expected` of the package above asks for it
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture
def fresh(model_dir):
    """A model of one's own, to hang hooks on."""
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """By kind: a model, and prompts of many lengths with what it answers."""
    rng = random.Random(1)
    asked = [[rng.randrange(3, 262) for _ in range(length)] for length in (1, 2, 6, 7, 15, 31, 60, 90)]
    made = {}
    for kind in ("llama", "gpt2", "qwen2", "qwen3"):
        model = random_model(tmp_path_factory.mktemp(kind), kind)
        made[kind] = model, [(ids, generated(model, ids, MOST_TOKENS)) for ids in asked]
    return made
