"""Constrained answers of a real model at temperature 1.5, by every engine that is installed here."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import jsonschema
import pytest

from arriero.constraint import JsonSchema
from arriero.engines import EngineOptions, load_engine
from arriero.engines.registry import ENTRIES
from arriero.prompt import Renderer, load_tokenizer, stop_token_ids
from tests.engines.vllm.support import OTHERS_WARNINGS, RANDOM

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400), OTHERS_WARNINGS]
SEEDS = range(32)
WORD = {"enum": ["salt", "rice", "beans"]}
# nothing in it goes on by itself: what reaches the limit has been writing blanks
ORDER = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {"what": WORD, "grams": {"enum": [100, 250, 500]}},
                "required": ["what", "grams"],
                "additionalProperties": False,
            },
        },
        "paid": {"type": "boolean"},
    },
    "required": ["items", "paid"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def renderer(embedded_model):
    tokenizer = load_tokenizer(embedded_model)
    return Renderer(tokenizer, stop_token_ids(tokenizer, embedded_model))


@pytest.fixture(scope="module", params=[entry.name for entry in ENTRIES if not entry.missing])
def engine(request, embedded_model, renderer):
    made = load_engine(embedded_model, renderer.stop_token_ids, request.param, EngineOptions())
    yield made
    made.close()


def test_no_answer_of_many_seeds_ends_in_blanks(engine, renderer):
    """vLLM wrote blanks to the limit: its llguidance does not keep to x-guidance's whitespace_pattern."""
    prompt = renderer.prompt([{"role": "user", "content": "Order some food, as JSON."}])
    hot = [replace(RANDOM, temperature=1.5, top_p=1.0, top_k=0, seed=seed) for seed in SEEDS]
    answers = [engine.submit(prompt, one, max_new_tokens=300, constraint=JsonSchema(ORDER)) for one in hot]
    texts = []
    for answer in answers:
        *ids, last = list(answer)
        assert (answer.finish_reason, last in renderer.stop_token_ids) == ("stop", True)
        texts.append(renderer.tokenizer.decode(ids))
        jsonschema.validate(json.loads(texts[-1]), ORDER)
    assert max(len(blanks) for text in texts for blanks in re.findall(r"\s+", text) or [""]) <= 25
    assert len(set(texts)) > len(SEEDS) / 4, "the temperature makes a difference"
