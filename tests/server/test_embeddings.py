"""Embeddings through the real OpenAI client, and beside answers: slots, batches, clients that release, the end."""

from __future__ import annotations

import base64
import functools
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from arriero.embeddings import Embedder
from arriero.server import create_app
from arriero.server.admission import Limits
from arriero.server.errors import RequestError
from arriero.server.models import Models
from tests.embeddings.scripted import ScriptedComputer, vector
from tests.server.conftest import remade

PATH = "/v1/embeddings"


@pytest.fixture
def embedding(serve, scripted_chat):
    """Serve an embedder beside a scripted chat: the server and its service."""

    def start(embedder, **limits):
        chat = scripted_chat("hello", gate=0)
        app = create_app(None, limits=Limits(**limits))
        app.service.open(Models(chat, embedder=embedder))
        return serve(chat=chat, app=app), app.service

    return start


@pytest.fixture
def held(embedding, embedding_dir):
    """The same over a computer that waits for the test."""
    computer = ScriptedComputer()
    made = Embedder(embedding_dir, start=lambda *_: computer)
    yield functools.partial(embedding, made), computer
    made.close()


@pytest.fixture
def client(embedding, embedder):
    served, _ = embedding(embedder)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_openais_client_gets_the_models_vectors(client, embedder):
    """It asks for base64 by itself, and for numbers when told to."""
    texts = ["who drives a llama", "vet"]
    expected = embedder.embed(texts)
    for more in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        made = client.embeddings.create(model="words", input=texts, user="me", **more)
        vectors = [entry.embedding for entry in made.data]
        if more.get("encoding_format") == "base64":
            vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        assert [(entry.index, entry.object) for entry in made.data] == [(0, "embedding"), (1, "embedding")]
        assert (made.model, made.object, made.usage.prompt_tokens, made.usage.total_tokens) == ("words", "list", 9, 9)


@pytest.mark.parametrize("given", ["vet", ["vet"], [2, 5, 3], [[2, 5, 3]]])
def test_text_and_token_ids_alone_and_in_lists(client, embedder, given):
    [entry] = client.embeddings.create(model="words", input=given).data
    np.testing.assert_allclose(entry.embedding, embedder.embed(["vet"])[0], atol=1e-6)


def test_what_cannot_be_embedded_is_named(client):
    longer = "a " * 23
    for given, param, code in (
        ({"input": ["a", longer]}, "input", "context_length_exceeded"),
        ({"input": [[2], [12]]}, "input", None),
        ({"input": []}, "input", None),
        ({"input": [[]]}, "input", None),
        ({"input": "a", "dimensions": 4}, "dimensions", None),
        ({"input": [2], "extra_body": {"input_type": "query"}}, "input_type", None),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="words", **given)
        assert str(caught.value.param).startswith(param)
        assert caught.value.code == code
    with pytest.raises(openai.NotFoundError, match="'tiny' is not served here, but: words"):
        client.embeddings.create(model="tiny", input="a")


def test_a_short_vector_and_a_query(embedding, prompted_embedder):
    served, _ = embedding(prompted_embedder)
    body = {"input": "vet", "dimensions": 4, "input_type": "query"}
    answer = httpx.post(f"{served.url}{PATH}", json=body, timeout=60).json()
    assert answer["model"] == "m", "the only one there is"
    np.testing.assert_allclose(
        answer["data"][0]["embedding"], prompted_embedder.embed(["vet"], kind="query", dimensions=4)[0], atol=1e-6
    )
    assert answer["usage"]["prompt_tokens"] == 4, "the prompt counts"


def test_it_is_listed_and_answers_nothing(client):
    assert {model.id: model.model_extra["max_model_len"] for model in client.models.list()} == {
        "tiny": 256,
        "words": 24,
    }
    assert client.models.retrieve("words").id == "words"
    with pytest.raises(openai.BadRequestError, match="'words' is for embeddings and answers nothing"):
        client.chat.completions.create(model="words", messages=[{"role": "user", "content": "hi"}])


def test_without_an_embedding_model(serve):
    answer = httpx.post(f"{serve('x').url}{PATH}", json={"model": "words", "input": "a"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "--embedding" in answer.json()["error"]["message"]


def test_no_other_model_has_its_name(scripted_chat, embedder, tmp_path):
    with pytest.raises(RequestError, match="'words' is the embedding model") as caught:
        Models(scripted_chat("x"), embedder=embedder).load("words", tmp_path)
    assert caught.value.status == 409
    with pytest.raises(RequestError, match="'words' is the embedding model"):
        Models(remade(scripted_chat("x"), adapter="runs/words"), embedder=embedder)


def test_requests_that_come_together_are_computed_together_and_counted(held):
    start, computer = held
    served, service = start()
    with ThreadPoolExecutor(9) as pool:
        post = functools.partial(httpx.post, f"{served.url}{PATH}", timeout=30)
        first = pool.submit(post, json={"input": "a"})
        assert computer.computing.wait(30)
        others = [pool.submit(post, json={"input": ["a", "a man"]}) for _ in range(8)]
        wait_until(lambda: service.admission.running == 9 and service.models.embedder._batcher._inbox.qsize() == 8)
        computer.go.set()
        for other in others:
            got = [entry["embedding"] for entry in other.result().json()["data"]]
            assert got == [vector([2, 8, 3]), vector([2, 8, 11, 3])]
        assert first.result().status_code == 200
    assert [len(batch) for batch in computer.batches] == [1, 16]
    text = service.metrics.text().decode()
    assert 'arriero_embeddings_total{model="words"} 17.0' in text
    assert 'arriero_prompt_tokens_total{model="words"} 59.0' in text
    assert service.admission.running == 0


def wait_until(holds):
    """Return once `holds()`; it is the server's threads that bring it about."""
    import threading

    for _ in range(3000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never held")


def test_slots_are_those_of_answers(held):
    start, computer = held
    served, service = start(max_running=1, max_waiting=0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{served.url}{PATH}", json={"input": "a"}, timeout=30)
        assert computer.computing.wait(30)
        refused = httpx.post(f"{served.url}{PATH}", json={"input": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert httpx.post(served.url, json={"prompt": "hi"}).status_code == 503, "an answer finds none either"
        computer.go.set()
        assert running.result().status_code == 200
    assert service.admission.running == 0


def test_who_leaves_gives_the_slot_back_and_is_not_computed(held, raw_post):
    start, computer = held
    served, service = start()
    first = raw_post(served, PATH, {"input": "a"})
    assert computer.computing.wait(30)
    second = raw_post(served, PATH, {"input": "a man"})
    wait_until(lambda: service.admission.running == 2)
    for connection in (first, second):
        connection.close()
        served.wait_for_end()
    assert service.admission.running == 0
    computer.go.set()
    assert httpx.post(f"{served.url}{PATH}", json={"input": "vet"}).status_code == 200
    assert computer.batches == [[[2, 8, 3]], [[2, 5, 3]]]
    assert 'arriero_requests_cancelled_total{model="words"} 2.0' in service.metrics.text().decode()
    assert served.raised == []


def test_what_is_broken_off_at_the_end_is_told(held):
    start, computer = held
    served, service = start()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{served.url}{PATH}", json={"input": "a"}, timeout=30)
        assert computer.computing.wait(30)
        service.drain()
        service.loop.call_soon_threadsafe(service.cancel_all)
        answer = running.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broken_off")
    assert service.admission.running == 0
