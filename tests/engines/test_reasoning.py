"""Reasoning on real engines: its limit holds, no turn ends within it, and what follows it fits its schema."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from arriero.chat import load
from arriero.constraint import JsonSchema, Reasoned, Text
from arriero.engines.base import require
from arriero.engines.llguidance import Grammars, lark
from arriero.errors import UnsupportedError, UsageError
from arriero.messages import Sampling
from tests.conftest import ScriptedEngine, ids_of
from tests.prompt.reasoning import CLOSED, OPENED, R1, build_reasoning_model

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
HELLO = [{"role": "user", "content": "hi"}]
END = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_reasoning_model(tmp_path_factory.mktemp("models") / "thinker", R1)


@pytest.fixture(scope="module")
def grammars(model):
    return Grammars(model, [END])


def allowed(grammars, constraint, ids):
    grammar = grammars.read(lark(constraint))
    for token in ids:
        assert grammar.allowed()[token], f"{token} is not allowed"
        grammar.accept(token)
    return {int(token) for token in grammar.allowed().nonzero()[0]}


@pytest.mark.parametrize("limit", [0, 1, 5, None])
@pytest.mark.parametrize("opened", [True, False])
def test_the_closing_tag_is_forced_at_the_limit_and_no_turn_ends_before(grammars, opened, limit):
    constraint = Reasoned(OPENED, CLOSED, opened, None, limit, (END,))
    begun = [] if opened else [OPENED]
    thought = ids_of("abcde")[: 5 if limit is None else limit]
    within = allowed(grammars, constraint, [*begun, *thought])
    assert within == {CLOSED} if limit is not None else within == set(range(264)) - {END}
    assert {END, OPENED, 97} <= allowed(grammars, constraint, [*begun, *thought, CLOSED]), "anything follows"
    if not opened:
        assert END in allowed(grammars, constraint, [])
        assert {CLOSED, END} <= allowed(grammars, constraint, ids_of("No")), "an answer without reasoning is free"


@pytest.mark.parametrize("tags", [(OPENED, CLOSED), ("<think>", "</think>")])
def test_the_schema_begins_after_the_reasoning(grammars, tags):
    """With a schema the model was held to JSON from its first token: it could not think, or its thoughts were JSON."""
    if isinstance(tags[0], str):
        tags = ("[think]", "[/think]")  # several tokens here
        ids = [ids_of("[think]So"), ids_of("[/think]\n\n")]
    else:
        ids = [[OPENED, *ids_of("So")], [CLOSED, *ids_of("\n\n")]]
    constraint = Reasoned(*tags, False, JsonSchema(SCHEMA), None, (END,))
    assert END not in allowed(grammars, constraint, ids[0])
    assert allowed(grammars, constraint, ids[0] + ids[1] + ids_of('{"a": 1}')) == {END}
    assert allowed(grammars, constraint, ids_of('{"a": 1}')) == {END}, "it may answer at once"
    opened = replace(constraint, opened=True)
    assert allowed(grammars, opened, ids[0][1:] + ids[1] + ids_of('{"a": 1}')) == {END}


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_a_model_thinks_within_its_limit_and_then_answers_by_its_schema(model, engine):
    """A random model, which would go on for ever; the schema's own limits are those of its integers."""
    chat = load(model, engine=engine, precision="float32")
    try:
        sampling = Sampling(max_reasoning_tokens=7, max_new_tokens=200, seed=3, temperature=1.0)
        for schema in (None, SCHEMA):
            stream = chat.stream(HELLO, sampling, schema=schema)
            pieces = list(stream)
            usage = pieces[-1].usage
            assert usage.reasoning_tokens <= 8, "seven and the tag"
            ids = stream._generation._ids
            assert CLOSED in ids[:8]
            if schema is not None:
                assert isinstance(json.loads("".join(piece.text for piece in pieces))["a"], int)
                assert pieces[-1].finish_reason == "stop"
    finally:
        chat.close()


def test_an_engine_that_cannot_refuses_by_name_and_one_that_can_is_not_asked_needlessly(scripted_chat):
    """vLLM's grammars are its own; where the model may answer at once, the constraint holds from the start there."""
    engine = ScriptedEngine("x")
    engine.features -= {"constraint_after_reasoning"}
    with pytest.raises(UnsupportedError, match="does not do constraint_after_reasoning"):
        require(engine, Sampling(), Reasoned(OPENED, CLOSED, True, Text("x"), None, (END,)), None)


def test_a_wrong_schema_is_named_after_reasoning_too(model):
    chat = load(model, engine="transformers", precision="float32")
    try:
        with pytest.raises(UsageError, match="the schema cannot be used"):
            chat.stream(HELLO, schema={"$ref": "#"})
    finally:
        chat.close()
