"""Models, adapters that come and go, tokens."""

from __future__ import annotations

import gc
import json
import shutil

import httpx
import pytest

from arriero.server import create_app
from arriero.server.auth import Keys
from tests.conftest import ids_of

HELLO = [{"role": "user", "content": "hi"}]
ADMIN = {"authorization": "Bearer admin-key-1"}


@pytest.fixture
def administered(serve, scripted_chat):
    """A server with an administrator's key, and its chat."""
    chat = scripted_chat("x")
    app = create_app(chat, keys=Keys({}, "admin-key-1"))
    return serve(chat=chat, app=app), chat


def test_an_adapter_comes_and_goes(administered, trained_adapter):
    served, chat = administered
    with httpx.Client(base_url=served.url, headers=ADMIN) as client:
        made = client.post("/v1/adapters", json={"name": "karen", "path": str(trained_adapter)})
        assert (made.status_code, made.json()["id"], made.json()["parent"]) == (201, "karen", "tiny")
        assert [each.directory for each in chat.engine.adapters] == [trained_adapter.resolve()]
        asked = {"model": "karen", "messages": HELLO}
        answered = client.post("/v1/chat/completions", json=asked)
        assert (answered.status_code, answered.json()["model"]) == (200, "karen")
        assert chat.engine.options.pop()["adapter"] in chat.engine.adapters
        again = client.post("/v1/adapters", json={"name": "karen", "path": str(trained_adapter)})
        assert again.status_code == 200
        assert client.delete("/v1/adapters/karen").json() == {"id": "karen", "object": "model", "deleted": True}
        gc.collect()
        assert not chat.engine.adapters, "nobody holds it any more"
        assert client.post("/v1/chat/completions", json=asked).status_code == 404
        assert client.delete("/v1/adapters/karen").status_code == 404


def test_an_adapter_brings_its_system_prompt_and_sampling(administered, trained_adapter, tmp_path):
    served, chat = administered
    directory = tmp_path / "adapter"
    shutil.copytree(trained_adapter, directory)
    (directory / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.25}')
    bodies = [{"model": name, "messages": HELLO} for name in ("karen", "tiny")]
    with httpx.Client(base_url=served.url, headers=ADMIN) as client:
        client.post("/v1/adapters", json={"name": "karen", "path": str(directory)})
        prompts = [client.post("/tokenize", json=body).json()["tokens"] for body in bodies]
        for body in bodies:
            client.post("/v1/chat/completions", json=body)
    system = json.loads((directory / "arriero.json").read_text())["system"]
    assert system
    assert chat.renderer.tokenizer.decode(prompts[0]).count(system) == 1
    assert system not in chat.renderer.tokenizer.decode(prompts[1])
    assert [ids for ids, _, _ in chat.engine.asked] == prompts
    assert [sampling.temperature for _, sampling, _ in chat.engine.asked] == [0.25, 0.0]


def test_what_is_no_adapter_is_told_without_a_path(administered, tmp_path):
    served, _ = administered
    with httpx.Client(base_url=served.url, headers=ADMIN) as client:
        for path in (tmp_path / "nothing", tmp_path):
            refused = client.post("/v1/adapters", json={"name": "x", "path": str(path)})
            assert refused.status_code == 400
            assert "was not loaded" in refused.json()["error"]["message"]
            assert "/" not in refused.json()["error"]["message"]
        for path in ("a\0b", "~nobody-of-that-name/x"):
            assert client.post("/v1/adapters", json={"name": "x", "path": path}).status_code == 400
        assert client.post("/v1/adapters", json={"name": "tiny", "path": str(tmp_path)}).status_code == 409
        assert client.post("/v1/adapters", json={"name": "../x", "path": str(tmp_path)}).status_code == 400
        assert client.delete("/v1/adapters/tiny").status_code == 409
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]


def test_only_the_administrator_changes_adapters(serve, scripted_chat, tmp_path):
    for keys, headers in (
        (Keys({}), {}),
        (Keys({"ana": "ana-key-1"}, "admin-key-1"), {"authorization": "Bearer ana-key-1"}),
    ):
        chat = scripted_chat("x")
        served = serve(chat=chat, app=create_app(chat, keys=keys))
        with httpx.Client(base_url=served.url, headers=headers) as client:
            refused = client.post("/v1/adapters", json={"name": "x", "path": str(tmp_path)})
            assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
            assert client.delete("/v1/adapters/tiny").status_code == 403


def test_tokens_are_what_the_engine_receives(serve, scripted_chat):
    chat = scripted_chat("x")
    served = serve(chat=chat)
    with httpx.Client(base_url=served.url) as client:
        tokenized = client.post("/tokenize", json={"messages": HELLO}).json()
        client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO})
        assert tokenized == {"tokens": chat.engine.asked[0][0], "count": 6, "max_model_len": 256}
        assert client.post("/tokenize", json={"prompt": "hé"}).json()["tokens"] == ids_of("hé")
        text = client.post("/detokenize", json={"tokens": tokenized["tokens"]}).json()["prompt"]
        assert text == chat.renderer.tokenizer.decode(tokenized["tokens"])
        for path, body in (
            ("/tokenize", {}),
            ("/tokenize", {"prompt": "a", "messages": HELLO}),
            ("/tokenize", {"messages": HELLO, "add_special_tokens": True}),
            ("/tokenize", {"prompt": "a", "response_format": {"type": "json_object"}}),
            ("/detokenize", {"tokens": [10**6]}),
        ):
            assert client.post(path, json=body).status_code == 400
        assert client.post("/tokenize", json={"prompt": "a", "model": "other"}).status_code == 404
