"""Every failure has its true status and OpenAI's shape, and tells nothing of the server's insides."""

from __future__ import annotations

import json
import threading

import httpx
import openai
import pytest

from arriero.chat import Chat
from arriero.errors import EngineError, MemoryLimitError, NotFoundError
from arriero.server.errors import describe
from tests.server.conftest import remade

HELLO = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "weather"}}
ASK = {"model": "tiny", "messages": HELLO}
COMPLETIONS = "/v1/chat/completions"


def error_of(response: httpx.Response, status: int) -> dict[str, str | None]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error


def part(**fields):
    return {"messages": [{"role": "user", "content": [fields]}]}


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temperature": "hot"}, "temperature", "valid number, got 'hot'"),
        ({"temperature": True}, "temperature", "valid number, got True"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": 10**400}, "temperature", "valid number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"seed": 1.5}, "seed", "valid integer"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 33}, None, "33 answers were asked for at once, this server gives 32"),
        ({"n": True}, "n", "valid integer"),
        ({"stop": 5}, "stop", "a string or a list of up to 4 strings, got 5"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4 items"),
        ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stream": 1}, "stream", "valid boolean"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "valid boolean"),
        ({"user": 7}, "user", "valid string"),
        ({"functions": [{"name": "f"}]}, "functions", "the field functions is not supported"),
        ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs to be true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a", "match pattern"),
        ({"logit_bias": {"999999": 1}}, None, "logit_bias names the token ids [999999]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "a tool's name must be"),
        ({"tool_choice": "required"}, None, "there are no tools to call"),
        ({"tool_choice": "some"}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"model": 7}, "model", "valid string"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hi"}, "messages", "valid list"),
        ({"messages": ["hi"]}, "messages[0]", "valid dictionary"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role", "'assistant' or 'tool'"),
        ({"messages": [HELLO[0] | {"tool_call_id": "1"}]}, None, "which only tool messages have"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "the content is missing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "the content is missing"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "text or a list of text parts"),
        (part(type="image_url", image_url={"url": "x"}), "messages[0].content[0].type", "got 'image_url'"),
        (part(type="text"), "messages[0].content[0].text", "missing"),
        ({"continue_final_message": True}, None, "the last message must be an assistant's text to be continued"),
    ],
)
def test_a_bad_field_is_named(app_of, change, param, message):
    client, chat = app_of("x")
    error = error_of(client.post(COMPLETIONS, json=ASK | change), 400)
    assert (error["param"], message in error["message"]) == (param, True), error
    assert chat.engine.asked == []


def test_a_missing_field_is_named(app_of):
    client, _ = app_of("x")
    assert error_of(client.post(COMPLETIONS, json={"model": "tiny"}), 400)["param"] == "messages"


@pytest.mark.parametrize("path", ["/", COMPLETIONS])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"prompt"',
        b"{",
        b"{'prompt': 'hi'}",
        b'{"prompt": "hi"} {}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud83e"}',
        b'{"prompt": "hi", "temperature": NaN}',
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": ' + b"9" * 10_000 + b"}",
    ],
    ids=range(12),
)
def test_a_body_that_is_no_json_object(app_of, path, content):
    client, _ = app_of("x")
    error = error_of(client.post(path, content=content, headers={"content-type": "application/json"}), 400)
    assert error["message"].startswith(("the body is not JSON: ", "the body must be a JSON object"))
    assert len(error["message"]) < 200


def test_unknown_paths_and_wrong_methods(app_of):
    client, _ = app_of("x")
    assert error_of(client.put("/"), 405)["message"] == "PUT /: Method Not Allowed"
    assert error_of(client.get("/nothing"), 404)["message"] == "GET /nothing: Not Found"
    assert error_of(client.post("/v1/images/generations", json=ASK), 404)
    assert error_of(client.get("/healthy/"), 404)
    refused = client.get(COMPLETIONS)
    assert error_of(refused, 405)["message"] == f"GET {COMPLETIONS}: Method Not Allowed"
    assert refused.headers["allow"] == "POST"
    assert error_of(client.delete("/v1/models/tiny"), 405)


def test_openais_client_raises_its_own_errors(serve):
    with openai.OpenAI(base_url=f"{serve('x').url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ASK, audio={"voice": "ash", "format": "wav"})
        assert (caught.value.param, caught.value.code) == ("audio", "unsupported_parameter")
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 300}])
        assert caught.value.code == "context_length_exceeded"
        assert "304 tokens" in caught.value.message
        assert "window holds 256" in caught.value.message


def failing(served, error: Exception, body: dict) -> httpx.Response:
    """The response to a request whose generation fails once the engine has reached its gate."""
    responses: list[httpx.Response] = []
    url = served.url + COMPLETIONS
    asking = threading.Thread(target=lambda: responses.append(httpx.post(url, json=body, timeout=30)))
    asking.start()
    assert served.chat.engine.reached.wait(30)
    served.chat.engine.generations[0].fail(error)
    asking.join()
    return responses[0]


@pytest.mark.parametrize("stream", [False, True])
def test_an_early_failure_has_its_true_status(serve, stream):
    error = MemoryLimitError("the cache is full", hint="arriero serve --smaller")
    response = failing(serve("abc", gate=0), error, ASK | {"stream": stream})
    assert error_of(response, 503)["message"] == "the cache is full"


def test_a_failure_in_the_middle_of_an_answer(serve):
    response = failing(serve("abc", gate=2), EngineError("/home/me/model.bin broke"), ASK)
    assert error_of(response, 500)["message"] == "the server failed to answer; its log says why"


def test_a_failure_in_the_middle_of_a_stream_is_an_event(serve, caplog):
    response = failing(serve("abc", gate=2), EngineError("/home/me/model.bin broke"), ASK | {"stream": True})
    assert response.status_code == 200
    *chunks, error, done, rest = [event.removeprefix("data: ") for event in response.text.split("\n\n")]
    assert [json.loads(chunk)["choices"][0]["delta"].get("content") for chunk in chunks] == ["", "a", "b"]
    message = "the server failed to answer; its log says why"
    assert json.loads(error) == {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
    assert (done, rest) == ("[DONE]", "")
    assert "/home/me/model.bin broke" in caplog.text


def test_openais_client_raises_what_a_stream_reports(serve):
    served = serve("abc", gate=1)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**ASK, stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
        served.chat.engine.generations[0].fail(MemoryLimitError("the cache is full"))
        with pytest.raises(openai.APIError, match="the cache is full"):
            next(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_closes_is_an_error_and_no_finish_reason(serve, stream):
    served = serve("abc", gate=1)
    responses: list[httpx.Response] = []
    body = ASK | {"stream": stream}
    asking = threading.Thread(target=lambda: responses.append(httpx.post(served.url + COMPLETIONS, json=body)))
    asking.start()
    assert served.chat.engine.reached.wait(30)
    served.chat.engine.generations[0].finish("cancelled")
    asking.join()
    assert "cancelled" not in responses[0].text
    assert "server_error" in responses[0].text
    assert responses[0].status_code == (200 if stream else 503)
    assert "shutting down" in responses[0].text


class Faulty(Chat):
    """Has a bug."""

    def stream(self, messages, sampling=None, **options):
        raise RuntimeError("/home/me/secret")


@pytest.mark.parametrize("path", ["/", COMPLETIONS])
def test_a_bug_is_a_500_that_tells_nothing(serve, scripted_chat, path):
    served = serve(chat=remade(scripted_chat("x"), Faulty))
    response = httpx.post(served.url + path, json={"prompt": "hi"} if path == "/" else ASK)
    assert error_of(response, 500)["message"] == "the server failed to answer; its log says why"


def test_hints_for_the_command_line_are_not_sent():
    status, body = describe(NotFoundError("no such model", hint="arriero models"))
    assert (status, body["error"]["message"]) == (404, "no such model")
    assert "arriero" not in json.dumps(body)


def test_the_openapi_document_describes_the_bodies(app_of):
    document = app_of("x")[0].get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["ChatRequest"]["required"] == ["messages"]
    assert schemas["ChatRequest"]["additionalProperties"] is True
    assert schemas["Prompt"]["additionalProperties"] is False
    assert schemas["Prompt"]["required"] == ["prompt"]
    operation = document["paths"][COMPLETIONS]["post"]
    assert set(operation["responses"]) == {"200", "4XX", "5XX"}
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "/v1/{_}" not in document["paths"]
