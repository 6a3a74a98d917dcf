"""What a refusal means, through the real clients; and that no token is ever shown or kept."""

from __future__ import annotations

import pytest

from arriero.hub.access import redacted
from tests.hub.hubs import LoopbackHub, download

TOKENS = {"HF_TOKEN": "hf_NoBodyMaySeeThis1", "MODELSCOPE_API_TOKEN": "ms-0123-NoBodyMaySeeThis2"}
SLOW = pytest.mark.slow
LLAMA = "meta-llama/Llama-3.2-1B-Instruct"


@pytest.fixture
def hub_server(model_dir):
    server = LoopbackHub(model_dir)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("gate", "told", "hint"),
    [
        ("no token", "you are not logged in", "accept the licence at {url}/owner/name, then run: hf auth login"),
        pytest.param(
            "wrong token",
            "your token is not valid",
            "make another at {url}/settings/tokens, then run: hf auth login",
            marks=SLOW,
        ),
        pytest.param(
            "weak token",
            "may not read gated repositories",
            "at {url}/settings/tokens, then run the command again",
            marks=SLOW,
        ),
        ("licence", "has not accepted its licence", "accept it at {url}/owner/name as"),
        pytest.param(
            "waiting", "have not answered your request", "see {url}/owner/name; run the command again", marks=SLOW
        ),
        pytest.param("rejected", "rejected your request", "see {url}/owner/name", marks=SLOW),
    ],
)
def test_hugging_face_s_refusals_are_told_apart(hub_server, tmp_path, gate, told, hint):
    """One text stood for all of them: accept the licence, then log in."""
    hub_server.gated = gate
    tokens = {} if gate == "no token" else TOKENS
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", environment=tokens)
    assert code == 5, errors
    assert told in errors
    assert hint.format(url=hub_server.url) in errors
    assert "ModelScope has" not in errors, "of a model that only one hub has"
    assert "NoBodyMaySeeThis" not in errors


@pytest.mark.parametrize(
    ("gate", "told", "hint"),
    [
        pytest.param(
            "no token",
            "you are not logged in",
            "accept the licence at {url}/models/owner/name, then run: modelscope",
            marks=SLOW,
        ),
        ("licence", "has not accepted its licence", "accept it at {url}/models/owner/name as"),
    ],
)
def test_modelscope_s_refusals_are_told_apart(hub_server, tmp_path, gate, told, hint):
    hub_server.gated = gate
    tokens = {} if gate == "no token" else TOKENS
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", "modelscope", environment=tokens)
    assert code == 5, errors
    assert told in errors
    assert hint.format(url=hub_server.url) in errors
    assert "NoBodyMaySeeThis" not in errors


def test_a_gated_model_that_modelscope_has_too_is_said_to_be_there(hub_server, tmp_path):
    hub_server.repository, hub_server.gated = LLAMA, "licence"
    code, _, errors = download(tmp_path, hub_server.url, LLAMA, "--source", "huggingface", environment=TOKENS)
    assert code == 5, errors
    assert "the same weights: arriero download llama-3.2-1b-instruct --source modelscope" in errors


@pytest.mark.parametrize("source", [pytest.param("huggingface", marks=SLOW), "modelscope"])
@pytest.mark.parametrize("gate", [pytest.param(None, marks=SLOW), "gone"])
def test_tokens_are_sent_and_never_shown_or_kept(hub_server, tmp_path, source, gate):
    """The hub here repeats the token in what it says, as a proxy that logs too much may."""
    hub_server.gated, hub_server.repeats = gate, True
    code, _, errors = download(tmp_path, hub_server.url, "owner/name", "--source", source, environment=TOKENS)
    assert (code == 0) == (gate is None), errors
    secret = TOKENS["HF_TOKEN" if source == "huggingface" else "MODELSCOPE_API_TOKEN"]
    assert any(secret in sent for sent in hub_server.tokens), "or nothing is tested"
    assert "NoBodyMaySeeThis" not in errors
    kept = [file for file in tmp_path.rglob("*") if file.is_file() and b"NoBodyMaySeeThis" in file.read_bytes()]
    assert kept == []


@pytest.mark.parametrize(
    "text",
    [
        "https://user:NoBody@host/simple",
        "Authorization: Bearer NoBody",
        "token hf_NoBodyNoBody failed",
        "Cookie: m_session_id=NoBody; path=/",
        "ms-NoBody-12345678",
        "https://host/data.json?token=NoBody&x=1",
        "my-own-NoBody",
    ],
)
def test_secrets_are_taken_out_of_what_is_said(monkeypatch, text):
    monkeypatch.setenv("HF_TOKEN", "my-own-NoBody")
    assert "NoBody" not in redacted(text)
