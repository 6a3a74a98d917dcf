"""Any JSON as a schema, through both libraries: a UsageError that says why not, or a grammar whose answers fit."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from arriero.constraint import MAX_LEVELS, JsonSchema
from arriero.engines.llguidance import Grammars, check, lark
from arriero.engines.openvino import OpenVINOEngine
from arriero.errors import UsageError
from arriero.messages import Sampling
from tests.conftest import build_tokenizer
from tests.engines.openvino.test_grammar import PLAIN
from tests.schemas import json_values, schemas

END = 2
LIMIT = 60
random_json = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.fixture(scope="module")
def engine(model_dir):
    made = OpenVINOEngine(model_dir, (END,))
    yield made
    made.close()


@pytest.fixture(scope="module")
def grammars(model_dir):
    return Grammars(model_dir, (END,))


def check_fit(ids, schema):
    """A finished answer fits; one that reached the limit says nothing."""
    if ids[-1] == END:
        value = json.loads(build_tokenizer().decode(ids[:-1]))
        jsonschema.Draft202012Validator(schema).validate(value)


@random_json
@given(schemas() | json_values(), st.integers(0, 2**16))
def test_openvino_refuses_a_schema_or_keeps_to_it(engine, schema, seed):
    """What got past the conversion to a grammar and failed in the library was HTTP 500, and left its cache blocks."""
    sampling = Sampling(temperature=2.0, seed=seed).over(PLAIN)
    try:
        answer = engine.submit([1, 4, 100, 5], sampling, max_new_tokens=LIMIT, constraint=JsonSchema(schema))
    except UsageError:
        return
    check_fit(list(answer), schema)


NO_END = {"type": "object", "properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]}


@random_json
@given(schemas() | json_values(), st.integers(0, 2**16))
@example({"$ref": "#"}, 0)
@example(NO_END, 0)
def test_llguidance_refuses_a_schema_or_keeps_to_it(grammars, schema, seed):
    """A $ref that leads back to itself was found out in the middle of the answer, as an error of the engine's."""
    choose, ids = random.Random(seed), []
    try:
        wanted = JsonSchema(schema)
        grammar = grammars.read(check(wanted))
        while END not in ids and len(ids) < LIMIT:
            ids.append(choose.choice(grammar.allowed().nonzero()[0].tolist()))
            if ids[-1] != END:
                grammar.accept(ids[-1])
    except UsageError:
        return
    check_fit(ids, schema)


def test_where_nothing_is_allowed_the_error_says_so_and_not_how_llguidance_stands(grammars):
    with pytest.raises(UsageError, match=r"^the schema cannot be used: nothing is allowed .* leads back to itself$"):
        check(JsonSchema({"$ref": "#"}))
    grammar = grammars.read(lark(JsonSchema(NO_END)))
    for byte in b'{"a": ':
        assert grammar.allowed()[6 + byte]
        grammar.accept(6 + byte)
    with pytest.raises(UsageError, match=r"^the schema cannot be used any further: nothing is allowed .* itself$"):
        grammar.allowed()


def test_a_schema_cannot_tell_llguidance_to_drop_what_it_cannot_keep():
    """Its own option `lenient`, written into the schema, was obeyed."""
    with pytest.raises(UsageError, match="Unimplemented keys"):
        check(JsonSchema({"x-guidance": {"lenient": True}, "not": {"type": "string"}}))


@pytest.mark.parametrize("part", ["items", "additionalProperties", "anyOf", "allOf", "properties"])
def test_the_longest_chain_of_references_that_is_allowed_does_not_end_the_process(part):
    """With a thousand the stack overflowed: one request was enough."""
    inner = {
        "anyOf": lambda ref: [ref, {"type": "null"}],
        "allOf": lambda ref: [ref],
        "properties": lambda ref: {"a": ref},
    }

    def chain(length):
        parts = {str(n): {part: inner.get(part, dict)({"$ref": f"#/$defs/{n + 1}"})} for n in range(length)}
        return {"$ref": "#/$defs/0", "$defs": {**parts, str(length): {"type": "null"}}}

    longest = MAX_LEVELS // (4 if inner.get(part) is None else 5) - 2
    with pytest.raises(UsageError, match="references may lead"):
        JsonSchema(chain(longest + 1))
    check(JsonSchema(chain(longest)))
