"""What may stand in a constraint: a schema is checked once, before any engine sees it."""

from __future__ import annotations

import json
import math
import re

import jsonschema
import pytest
from hypothesis import given

from arriero.constraint import MAX_DEPTH, MAX_VALUES, JsonSchema
from arriero.errors import UsageError
from arriero.tools import Tool
from tests.schemas import broken_schemas, json_values, schemas


@pytest.mark.parametrize(
    ("schema", "where", "what"),
    [
        ({"properties": []}, "#/properties", 'the value is not of type "object", got []'),
        ({"minLength": "3"}, "#/minLength", "the value is not of type \"integer\", got '3'"),
        ({"minItems": 1.5}, "#/minItems", 'the value is not of type "integer", got 1.5'),
        ({"maxLength": -1}, "#/maxLength", "the value is less than the minimum of 0, got -1"),
        ({"$ref": {}}, "#/$ref", 'the value is not of type "string", got {}'),
        ({"pattern": 5}, "#/pattern", 'the value is not of type "string", got 5'),
        ({"format": []}, "#/format", 'the value is not of type "string", got []'),
        ({"anyOf": []}, "#/anyOf", "the value has less than 1 item, got []"),
        ({"exclusiveMinimum": True}, "#/exclusiveMinimum", 'the value is not of type "number", got True'),
        ({"items": [{}]}, "#/items", 'the value is not of types "boolean", "object", got [{}]'),
        ({"properties": {"a/b~": {"type": "strng"}}}, "#/properties/a~1b~0/type", "the value is not one of "),
        ({"properties": {"a": {"items": {"type": [7]}}}}, "#/properties/a/items/type/0", "the value is not one of "),
        ({"items": "long" * 9999}, "#/items", 'the value is not of types "boolean", "object", got \'longlong'),
    ],
)
def test_a_schema_of_wrong_types_is_refused_with_the_path(schema, where, what):
    """These gave AttributeError, TypeError and other tracebacks inside the OpenVINO engine, HTTP 500 on the server."""
    with pytest.raises(
        UsageError, match=f"^the JSON schema is wrong at {re.escape(where)}: {re.escape(what)}"
    ) as caught:
        JsonSchema(schema)
    assert len(caught.value.message) < 200
    with pytest.raises(UsageError, match=f"^the parameters of the tool t: .* wrong at {re.escape(where)}: "):
        Tool("t", "", {"type": "object", **schema})


def nested(levels: int) -> dict:
    made: dict = {}
    for _ in range(levels - 1):
        made = {"items": made}
    return made


def cyclic() -> dict:
    made: dict = {}
    made["items"] = made
    return made


def chain(length: int) -> dict:
    """Parts that refer to the next: with a thousand of them llguidance ended the process by a segmentation fault."""
    parts = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(length)}
    return {"$ref": "#/$defs/0", "$defs": {**parts, str(length): {}}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (nested(MAX_DEPTH + 1), "at most 64 levels"),
        (nested(5000), "at most 64 levels"),
        (cyclic(), "at most 64 levels"),
        ({"enum": list(range(MAX_VALUES))}, "and 20000 values"),
        (chain(400), "at most 1000 levels, got 402 different parts of up to 4 levels"),
        ({"$id": "x/", "items": {"$defs": {str(n): {"$id": "a" * n, "$ref": "#"} for n in range(300)}}}, "1000 levels"),
        ({"default": math.nan}, "is not JSON"),
        ({"maximum": math.inf}, "is not JSON"),
        ({"const": {1, 2}}, "is not JSON"),
        ({"minimum": 10**5000}, "is not JSON"),
        ({"const": "\ud800"}, "is not JSON"),
        ([], "must be an object, got list"),
        (None, "must be an object, got NoneType"),
    ],
)
def test_what_is_too_large_or_no_json_is_refused(schema, message):
    with pytest.raises(UsageError, match=message):
        JsonSchema(schema)


def test_the_limits_themselves_are_allowed_and_the_schema_is_a_copy():
    JsonSchema(nested(MAX_DEPTH))
    JsonSchema({"enum": list(range(MAX_VALUES - 2))})
    JsonSchema(chain(240))
    given = {"properties": {"a": {"minLength": 3.0}}, "required": ("a",)}
    made = JsonSchema(given)
    given["properties"]["a"]["minLength"] = "later"
    assert made.schema == {"properties": {"a": {"minLength": 3}}, "required": ["a"]}


@given(schemas() | broken_schemas() | json_values())
def test_what_is_accepted_is_what_the_reference_implementation_accepts(schema):
    try:
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=None)
        valid = isinstance(schema, dict) and "\\udc" not in json.dumps(schema)
    except jsonschema.SchemaError:
        valid = False
    try:
        JsonSchema(schema)
        accepted = True
    except UsageError:
        accepted = False
    assert accepted == valid
