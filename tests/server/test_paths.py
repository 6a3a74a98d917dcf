"""What clients do to paths: slashes at the end, a base URL without /v1 or with two, HEAD; the page keeps its own."""

from __future__ import annotations

import logging

import httpx
import openai
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from arriero.server import create_app
from arriero.server.auth import Keys
from arriero.server.paths import Paths
from tests.server.test_middleware import ASK, COMPLETIONS, KEYS, counted

SHORT = {
    "/chat/completions": ASK,
    "/completions": {"model": "tiny", "prompt": "hi"},
    "/responses": {"model": "tiny", "input": "hi"},
    "/tokenize": {"model": "tiny", "prompt": "hi"},
}
PATHS = Paths(create_app(None).routes)


def page() -> Starlette:
    """A page in the place of the web page, which answers with the path that reached it."""

    async def echo(request):
        return PlainTextResponse(f"page {request.url.path}")

    return Starlette(routes=[Route("/{path:path}", echo)])


@pytest.fixture
def paged(client_of):
    """A client of an app with a page at "/"."""
    client = client_of()
    client.app.mount("/", page())
    return client


@pytest.mark.parametrize("path", SHORT)
def test_v1_may_be_left_out_and_slashes_left_over(paged, path):
    """Such clients got the page, a 404 or a 405: their base URL is the server's, or ends with a slash."""
    given = [path, f"{path}/", f"{path}//"]
    if path != "/tokenize":
        given += [f"/v1{path}", f"/v1{path}/"]
    for each in given:
        assert paged.post(each, json=SHORT[path]).status_code == 200, each


def test_a_browser_that_asks_for_a_page_gets_the_page_of_that_name(paged):
    """A reload of the page "Models" showed the API's list of models."""
    assert paged.get("/models", headers={"accept": "text/html,*/*;q=0.8"}).text == "page /models"
    assert paged.get("/v1/models/", headers={"accept": "text/html"}).json()["object"] == "list"


def test_models_are_found_under_both(paged):
    expected = paged.get("/v1/models").json()
    for path in ("/models", "/models/", "/v1/models/"):
        assert paged.get(path).json() == expected
    for path in ("/models/tiny", "/models/tiny/", "/v1/models/tiny/"):
        assert paged.get(path).json() == expected["data"][0]
    assert paged.post("/models").status_code == 405
    assert paged.get("/models/none").status_code == 404
    for path in ("/api/tags/", "/health/", "/ready/"):
        assert paged.get(path).json() == paged.get(path.rstrip("/")).json()
    assert paged.post("/embeddings", json={"input": "a"}).json()["error"]["code"] == "model_not_found"


def test_openais_client_works_with_every_base_url(serve):
    url = serve("hello").url
    for base in (url, f"{url}/", f"{url}/v1", f"{url}/v1/"):
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
            assert client.chat.completions.create(**ASK).choices[0].message.content == "hello"
            assert client.models.retrieve("tiny").id == "tiny"


def test_aliases_are_counted_and_logged_under_the_one_path_and_not_documented(paged, caplog):
    with caplog.at_level(logging.INFO, "arriero.server.access"):
        paged.post("/chat/completions/", json=ASK)
    assert caplog.records[-1].fields["path"] == COMPLETIONS
    assert counted(paged, "arriero_requests_total", path=COMPLETIONS, status="200") == 1
    paths = paged.get("/openapi.json").json()["paths"]
    assert COMPLETIONS in paths
    assert not {*SHORT, "/models", f"{COMPLETIONS}/"} & {*paths} - {"/tokenize"}
    assert all(set(methods) <= {"get", "post", "delete"} for methods in paths.values()), "HEAD goes without saying"


def test_aliases_need_the_key_that_their_path_needs(client_of):
    client = client_of(keys=KEYS)
    for path in (*SHORT, "/chat/completions/", "/v1/models/"):
        assert client.post(path, json={}).status_code == 401, path
    assert client.get("/health/").status_code == 200


PAGES = ["/", "/static/", "/static/js/main.js", "/_stcore/health", "/media/x/", "/component/a/", "/manifest.json",
         "/chat", "/chat/", "/v2/models", "/nothing/", "//", "//models"]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_the_pages_paths_stay_as_they_are(client_of, path):
    client = client_of()
    client.app.mount("/", page())
    assert client.get(f"http://testserver{path}").text == f"page {path}"


@given(st.text(st.sampled_from("/v1models_static.chat"), max_size=30))
def test_only_what_is_served_takes_a_paths_place(path):
    given, short = f"/{path}", f"/{path}".rstrip("/")
    plain = PATHS.canonical(given)
    assert PATHS.canonical(plain) == plain
    assert PATHS.served(plain) or plain == given
    assert plain in (given, short, f"/v1{short}")


@pytest.mark.parametrize(
    ("path", "base"),
    [("/v1/v1/chat/completions", "/v1"), ("/v1/v1/models/", "/v1"), ("/api/v1/chat/completions", "/v1"),
     ("/api/chat/completions", "/v1"), ("/v1/v1/messages", ""), ("/v1/api/chat", ""), ("/v1/health", "")],
)  # fmt: skip
def test_a_base_url_with_too_much_is_told_what_it_should_be(paged, path, base):
    """It was a bare 404, of which people try one model name after the other."""
    for method in ("GET", "POST"):
        answer = paged.request(method, path)
        assert answer.status_code == 404
        assert f"the client's base URL should be http://testserver{base}\"" in answer.text


def test_other_paths_that_are_not_there_are_told_nothing(paged):
    for path in ("/v1/nothing", "/v1/v1", "/v1/v1/nothing", "/api/pull", "/api/", "/v1/"):
        answer = paged.post(path)
        assert (answer.status_code, "base URL" in answer.text) == (404, False)


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/v1/models", "/models/", "/api/tags", "/api/version"])
def test_who_asks_for_the_head_gets_it(serve, scripted_chat, path):
    """Probes and Ollama's own client ask so; the answer was 405."""
    chat = scripted_chat("x")
    app = create_app(chat)
    url = serve(chat=chat, app=app).url
    found, whole = httpx.head(url + path), httpx.get(url + path)
    assert (found.status_code, found.content) == (200, b"")
    for name in ("content-type", "content-length", "x-content-type-options"):
        assert found.headers[name] == whole.headers[name]
    with httpx.Client() as client:  # over one connection: no body may stand where the next answer begins
        assert [client.head(url + path).status_code, client.get(url + path).status_code] == [200, 200]
    assert httpx.head(url + COMPLETIONS).status_code == 405


def test_the_head_alone_has_no_body_on_any_server(client_of):
    assert client_of().head("/v1/models").content == b""


def test_without_a_page_the_root_says_that_it_runs(client_of, paged):
    """Ollama's clients look there first; it was 405."""
    assert client_of().get("/").text == "Arriero is running"
    assert paged.get("/").text == "page /"
    assert paged.post("/", json={"prompt": "hi"}).json()["response"] == "hello"
    other = client_of().put("/")
    assert (other.status_code, other.headers["allow"]) == (405, "GET, POST")
    assert client_of(keys=Keys({"anna": "anna-secret"})).head("/").status_code == 401


def test_inside_another_app_paths_are_those_after_its_own(scripted_chat):
    from starlette.testclient import TestClient

    outer = FastAPI()
    outer.mount("/llama", create_app(scripted_chat("hello")))
    with TestClient(outer) as client:
        assert client.post("/llama/chat/completions/", json=ASK).status_code == 200
        assert "should be http://testserver/llama/v1" in client.post("/llama/v1/v1/models").text
