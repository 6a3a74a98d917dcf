"""Ollama's embeddings, in the forms that its documentation and its clients have on the wire."""

from __future__ import annotations

import functools

import httpx
import numpy as np
import pytest

from arriero.server import create_app
from arriero.server.models import Models
from tests.server.test_ollama import fault_of

EMBED, EMBEDDINGS = "/api/embed", "/api/embeddings"
LONG = "a " * 40


@pytest.fixture
def serving(serve, scripted_chat):
    """`client, service = serving(embedder)`: a client of a real server that has it."""
    with httpx.Client(timeout=30) as client:

        def start(embedder):
            chat = scripted_chat("hello")
            app = create_app(None)
            app.service.open(Models(chat, embedder=embedder))
            client.base_url = serve(chat=chat, app=app).url
            return client, app.service

        yield start


@pytest.fixture
def post(serving, embedder):
    client, _ = serving(embedder)
    return lambda path=EMBED, **body: client.post(path, json={"model": "words", **body})


@pytest.mark.parametrize("name", ["words", "words:latest"])
@pytest.mark.parametrize("texts", ["who drives a llama", ["who drives a llama", "vet"]])
def test_texts_become_the_models_vectors(post, embedder, name, texts):
    """It was a 404: Ollama's clients for retrieval had answers here and no vectors."""
    body = post(model=name, input=texts, keep_alive="5m", options={"num_ctx": 512}).json()
    given = [texts] if isinstance(texts, str) else texts
    np.testing.assert_allclose(body.pop("embeddings"), embedder.embed(given), atol=1e-6)
    assert body.pop("total_duration") > 0
    assert body == {"model": name, "load_duration": 0, "prompt_eval_count": sum(map(len, embedder.encode(given)))}


def test_the_older_path_takes_one_text(post, embedder):
    body = post(EMBEDDINGS, prompt="vet").json()
    assert list(body) == ["embedding"]
    np.testing.assert_allclose(body["embedding"], embedder.embed(["vet"])[0], atol=1e-6)
    body = post(EMBEDDINGS, prompt=LONG).json()
    np.testing.assert_allclose(body["embedding"], embedder.embed(["a " * 22])[0], atol=1e-6)
    assert post(EMBEDDINGS).json() == post(EMBEDDINGS, prompt="").json() == {"embedding": []}


@pytest.mark.parametrize("truncate", [{}, {"truncate": True}, {"truncate": None}])
def test_a_text_beyond_the_window_is_cut_unless_told_otherwise(post, embedder, truncate):
    body = post(input=[LONG, "vet"], **truncate).json()
    np.testing.assert_allclose(body["embeddings"], embedder.embed(["a " * 22, "vet"]), atol=1e-6)
    assert body["prompt_eval_count"] == 24 + 3
    assert "window" in fault_of(post(input=[LONG, "vet"], truncate=False), 400)


@pytest.mark.parametrize("nothing", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_nothing_to_embed_is_the_model_loaded(post, nothing):
    body = post(**nothing).json()
    assert (body["embeddings"], body["prompt_eval_count"]) == ([], 0)


def test_shorter_vectors(serving, prompted_embedder):
    client, _ = serving(prompted_embedder)
    body = client.post(EMBED, json={"model": "m", "input": "vet", "dimensions": 4}).json()
    np.testing.assert_allclose(body["embeddings"], prompted_embedder.embed(["vet"], dimensions=4), atol=1e-6)
    whole = client.post(EMBED, json={"model": "m", "input": "vet", "dimensions": 0}).json()
    assert np.shape(whole["embeddings"]) == (1, 16)


def test_what_cannot_be_done_is_refused_in_ollamas_shape(post, serving, embedder):
    assert "16 numbers" in fault_of(post(input="vet", dimensions=4), 400)
    assert "input" in fault_of(post(input=[1]), 400)
    assert "input" in fault_of(post(input={"a": 1}), 400)
    for path in (EMBED, EMBEDDINGS):
        assert "'tiny' is not served here, but: words" in fault_of(post(path, model="tiny", input="a"), 404)
    assert "for embeddings and answers nothing" in fault_of(post("/api/chat", messages=[]), 400)
    client, _ = serving(None)
    assert "--embedding" in fault_of(client.post(EMBED, json={"model": "words", "input": "vet"}), 404)


def test_it_is_listed_and_shown(serving, embedder):
    """Clients choose from the list, and look whether a model embeds."""
    client, _ = serving(embedder)
    assert [tag["model"] for tag in client.get("/api/tags").json()["models"]] == ["tiny:latest", "words:latest"]
    shown = client.post("/api/show", json={"model": "words:latest"}).json()
    assert shown["capabilities"] == ["embedding"]
    assert shown["model_info"] == {
        "general.architecture": "arriero",
        "arriero.context_length": 24,
        "arriero.embedding_length": 16,
    }
    assert "completion" in client.post("/api/show", json={"model": "tiny"}).json()["capabilities"]


def test_it_takes_a_slot_and_is_counted(serving, embedder):
    client, service = serving(embedder)
    embed = functools.partial(client.post, EMBED)
    assert embed(json={"model": "words", "input": ["vet", "a"]}).status_code == 200
    text = service.metrics.text().decode()
    assert 'arriero_embeddings_total{model="words"} 2.0' in text
    assert f'path="{EMBED}"' in text
    assert service.admission.running == 0
    service.drain()
    fault_of(embed(json={"model": "words", "input": "vet"}), 503)
