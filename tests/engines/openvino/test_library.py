"""What OpenVINO GenAI's own grammars get wrong, which is why there are schema.py, numbers.py, regex.py and rules.py.

These tests fail on the day the library is right: then ours can go.
"""

from __future__ import annotations

import json
import re

import jsonschema
import numpy as np
import openvino
import openvino_genai as genai
import pytest

from arriero.engines.openvino.cache import exported
from arriero.engines.openvino.engine import described
from arriero.engines.openvino.pipeline import Model
from tests.conftest import build_tokenizer

SCHEMAS = {
    "allows 4": {"type": "integer", "minimum": 7},
    "control characters": {"type": "string", "minLength": 2, "maxLength": 6},
    "dropped multipleOf": {"type": "integer", "multipleOf": 7},
    "dropped not": {"not": {"type": "string"}},
    "dropped uniqueItems": {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 3},
    "dropped contains": {"type": "array", "contains": {"const": 1}, "items": {"enum": [1, 2]}, "maxItems": 2},
}
PLAIN = {  # grammars as one would write them, and what they allow
    'root ::= "é" | "è" | "éa" | "ê" | "骆驼" | "骆马" | "骆"': "é|è|éa|ê|骆驼|骆马|骆",
    'root ::= ([0-9] | [1-9] [0-9] | [1-9] [0-9] [0-9]) ("." [0-9])?': r"([0-9]|[1-9][0-9]|[1-9][0-9][0-9])(\.[0-9])?",
}


@pytest.fixture(scope="module")
def answers(model_dir):
    """Finished answers of a random model under one of the library's own constraints."""
    pipeline, tokenizer = Model(**described(model_dir, exported(model_dir), "int8")).build(), build_tokenizer()

    def made(constraint):
        kind = "grammar" if isinstance(constraint, str) else "json_schema"
        text = constraint if isinstance(constraint, str) else json.dumps(constraint)
        prompts, configs = [], []
        for seed in range(40):
            config = genai.GenerationConfig(max_new_tokens=80, do_sample=True, temperature=2.0, rng_seed=seed)
            config.stop_token_ids = {2}
            config.structured_output_config = genai.StructuredOutputConfig(**{kind: text})
            configs.append(config)
            prompts.append(openvino.Tensor(np.array([[1, 4, 100 + seed, 5]], dtype=np.int64)))
        try:
            found = [result.m_generation_ids[0] for result in pipeline.generate(prompts, configs)]
        except RuntimeError:  # it may refuse what it cannot do
            return []
        return [tokenizer.decode(ids[:-1]) for ids in found if ids and ids[-1] == 2]

    return made


def fits(text, schema):
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the library's conversion allows what schemas forbid")
def test_the_library_keeps_to_json_schemas_so_that_our_conversion_can_go(answers):
    wrong = [name for name, schema in SCHEMAS.items() if not all(fits(text, schema) for text in answers(schema))]
    assert wrong == []


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the library's optimiser merges states it must not merge")
def test_the_library_keeps_to_plain_grammars_so_that_the_layout_of_our_rules_can_go(answers):
    wrong = [text for plain, allowed in PLAIN.items() for text in answers(plain) if not re.fullmatch(allowed, text)]
    assert wrong == []
