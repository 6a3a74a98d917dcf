"""What is asked of an answer's form: a schema that is none is refused with its place, turns in a row are one turn."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings

from arriero.engines.llguidance import check as check_by_llguidance
from arriero.engines.openvino.grammar import grammar as check_by_openvino
from arriero.messages import Message
from arriero.server.routes.anthropic.schemas import MessagesRequest
from arriero.server.routes.ollama.schemas import ChatBody
from tests.conftest import TOOL_TEMPLATE, ScriptedEngine
from tests.prompt.templates import GLUED, HERMES, THINKING
from tests.prompt.test_prompt_renderer import ALTERNATING, renderer_of
from tests.prompt.test_templates import RENDERERS
from tests.schemas import broken_schemas, json_values, schemas

HELLO = [{"role": "user", "content": "hi"}]


class StrictEngine(ScriptedEngine):
    """Takes a constraint only if each library's conversion does, as the engines do."""

    def submit(self, prompt_ids, sampling, **options):
        if options["constraint"] is not None:
            check_by_openvino(options["constraint"])
            check_by_llguidance(options["constraint"])
        return super().submit(prompt_ids, sampling, **options)


@pytest.fixture
def client(client_of, scripted_chat):
    chat = scripted_chat(template=TOOL_TEMPLATE)
    chat.engine = StrictEngine("{}")
    return client_of(chat=chat)


def asked(schema):
    """Each place of the API that takes a schema: (path, body, the parameter that is named)."""
    tool = {"type": "function", "function": {"name": "t", "parameters": schema}}
    chat = {"model": "tiny", "messages": HELLO}
    response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    yield "/v1/chat/completions", {**chat, "response_format": response_format}, "response_format.json_schema.schema"
    yield "/v1/chat/completions", {**chat, "tools": [tool]}, "tools"
    yield "/v1/chat/completions", {**chat, "tools": [tool], "tool_choice": "required"}, "tools"
    yield "/tokenize", {**chat, "response_format": response_format}, "response_format.json_schema.schema"
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    yield "/v1/responses", {"model": "tiny", "input": "hi", "text": text}, "text.format.schema"


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "object", "properties": []}, "#/properties"),
        ({"type": "object", "properties": {"a": {"minLength": "3"}}}, "#/properties/a/minLength"),
        ({"type": "object", "properties": {"a": {"$ref": {}}}}, "#/properties/a/$ref"),
    ],
)
def test_a_schema_of_wrong_types_is_a_bad_request_that_names_the_place(client, schema, place):
    """It was HTTP 500 on the OpenVINO engine."""
    for path, body, param in asked(schema):
        response = client.post(path, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert f"is wrong at {place}: " in error["message"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schemas() | broken_schemas() | json_values())
def test_any_json_as_a_schema_is_answered_or_a_bad_request(client, schema):
    for path, body, _ in asked(schema):
        response = client.post(path, content=json.dumps(body))
        assert response.status_code in (200, 400), response.text


def test_arguments_of_a_call_that_are_nested_too_deeply_are_a_bad_request(client):
    """Python's own limit was reached, somewhere between reading the text and writing it into the prompt: HTTP 500."""
    for depth in [*range(100, 1100, 10), 50_000]:
        function = {"name": "t", "arguments": '{"a":' * depth + "1" + "}" * depth}
        turn = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}
        result = {"role": "tool", "tool_call_id": "c", "content": "x"}
        tool = {"type": "function", "function": {"name": "t"}}
        body = {"model": "tiny", "messages": [*HELLO, turn, result], "tools": [tool]}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code in ((200, 400) if depth < 5000 else (400,)), (depth, response.text)


def test_messages_of_one_role_in_a_row_are_the_same_prompt_in_responses_as_in_chat_completions(client):
    """Responses refused them: turn 2 must come from the assistant, got user."""
    turns = [{"role": role, "content": text} for role, text in [("system", "b"), ("user", "c"), ("user", "d")]]
    body = {"model": "tiny", "instructions": "a", "input": turns}
    assert client.post("/v1/responses", json=body).status_code == 200
    messages = [{"role": "system", "content": "a"}, *turns]
    assert client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages}).status_code == 200
    one, other = (ids for ids, _, _ in client.app.state.service.models.default.chat.engine.asked)
    assert one == other


SAID = [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")]
TEMPLATES = {"tools": TOOL_TEMPLATE, "alternating": ALTERNATING, "hermes": HERMES, "thinking": THINKING, "glued": GLUED}
OTHERS = {name: renderer_of(template) for name, template in TEMPLATES.items()}


@pytest.mark.parametrize("name", [*RENDERERS, *OTHERS])
@pytest.mark.parametrize("body", [MessagesRequest, ChatBody], ids=["anthropic", "ollama"])
def test_turns_in_a_row_are_the_templates_business_on_every_api(body, name):
    """Anthropic's and Ollama's were joined before the template was asked: not what training has, nor OpenAI's path."""
    renderer = (RENDERERS | OTHERS)[name]
    for said in (SAID, SAID[:2], SAID[:4]):
        sent = {"model": "tiny", "messages": [{"role": role, "content": text} for role, text in said]}
        expected = [Message(role, text) for role, text in said]
        assert renderer.prompt(body.model_validate(sent).conversation()) == renderer.prompt(expected)
