"""API keys: where they come from, who is known by one, and that none is written anywhere."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from arriero.errors import UsageError
from arriero.server import auth as module
from arriero.server.auth import COOKIE, Caller, Keys, read_keys

KEYS = Keys({"anna": "anna-secret", "bert": "bert-secret"}, "admin-secret")


def basic(user_and_password: str) -> str:
    return "Basic " + base64.b64encode(user_and_password.encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        ("Bearer anna-secret", "anna"),
        ("bearer   bert-secret ", "bert"),
        ("Bearer admin-secret", "admin"),
        (basic("anybody:anna-secret"), "anna"),
        (basic(":bert-secret"), "bert"),
        ("basic " + basic("a:anna-secret")[6:], "anna"),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Bearer anna", None),
        ("Bearer anna-secret2", None),
        ("Bearer anna-secret bert-secret", None),
        ("anna-secret", None),
        ("Digest anna-secret", None),
        ("Bearer ÿþ", None),
        (basic("anna-secret"), None),
        (basic("anna-secret:"), None),
        ("Basic anna-secret", None),
        ("Basic ÿ", None),
        ("Basic /////w==", None),
    ],
)
def test_who_is_known_by_a_header(authorization, name):
    who = KEYS.caller(Headers({"authorization": authorization}))
    assert who == (None if name is None else Caller(name, admin=name == "admin"))


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x-api-key": "anna-secret"}, "anna"),
        ({"x-api-key": "admin-secret"}, "admin"),
        ({"x-api-key": "Bearer anna-secret"}, None),
        ({"x-api-key": ""}, None),
        ({"x-api-key": "wrong-secret"}, None),
        ({"authorization": "Bearer bert-secret", "x-api-key": "anna-secret"}, "bert"),
        ({"authorization": "Bearer wrong-secret", "x-api-key": "anna-secret"}, None),
    ],
    ids=str,
)
def test_who_is_known_by_anthropics_header(headers, name):
    who = KEYS.caller(Headers(headers))
    assert who == (None if name is None else Caller(name, admin=name == "admin"))


def sent(cookie: str) -> Headers:
    return Headers({"cookie": cookie})


def test_a_cookie_is_good_in_this_process_only_and_holds_no_key():
    cookie = KEYS.cookie(Caller("anna"), secure=False)
    pair, *attributes = cookie.split("; ")
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Strict"]
    assert KEYS.cookie(Caller("anna"), secure=True) == f"{cookie}; Secure"
    assert KEYS.caller(sent(pair)) == Caller("anna")
    assert KEYS.caller(sent(f'other="a b"; bad name; {pair}; more=1')) == Caller("anna")
    assert "anna-secret" not in pair
    assert Keys({"anna": "anna-secret"}).caller(sent(pair)) is None, "after a restart one logs in again"
    for wrong in (f"{COOKIE}=", f"{COOKIE}=anna-secret", pair[:-1], pair + "0", "\x00", "=;=", f"{COOKIE}=ÿ"):
        assert KEYS.caller(sent(wrong)) is None


def test_every_key_is_compared_whatever_the_first_says(monkeypatch):
    """So that the time tells nothing, nor does how many characters were right: digests of one length are compared."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append((ours, theirs))
        return ours == theirs

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    counts = []
    for header in ("Bearer anna-secret", "Bearer admin-secret", "Bearer x", "", basic("a:anna-secret")):
        compared.clear()
        KEYS.caller(Headers({"authorization": header}))
        counts.append(len(compared))
        assert {len(side) for pair in compared[::2] for side in pair} == {32}
    assert counts == [6] * 5  # three keys, each as key and as cookie


def test_without_keys_everybody_is_let_in_and_nobody_is_the_administrator():
    assert (Keys({}).required, Keys({}).administered) == (False, False)
    assert Keys({}).caller(Headers({"authorization": "Bearer x"})) is None
    only_admin = Keys({}, "admin-secret")
    assert (only_admin.required, only_admin.administered) == (False, True)
    assert only_admin.caller(Headers({"authorization": "Bearer admin-secret"})) == Caller("admin", admin=True)
    assert (KEYS.required, KEYS.administered) == (True, True)


def write(directory: Path, content: str | bytes) -> Path:
    file = directory / "keys.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("first-key-1\n", {"key-1": "first-key-1"}),
        ("# ours\n\n  anna   anna-secret  \n#bert b\n\t\nsecond-key", {"anna": "anna-secret", "key-6": "second-key"}),
        ("\ufeffanna-secret\r\nbert bert-secret\r\n", {"key-1": "anna-secret", "bert": "bert-secret"}),
    ],
)  # fmt: skip
def test_key_files(tmp_path, content, found):
    assert read_keys(write(tmp_path, content), "not-looked-at") == found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no key"),
        ("\n \n# nothing\n", "holds no key"),
        ("anna anna-secret more\n", "line 1: expected a key, or a name and a key, got 3 words"),
        ("anna anna-secret\nanna bert-secret\n", "the name anna"),
        ("anna anna-secret\nbert anna-secret\n", "the name bert"),
        ("admin anna-secret\n", "the name admin"),
        ("anna short\n", "the key anna must be 8 or more ASCII characters"),
        ("anna geheimnis-ä\n", "the key anna must be"),
        ("anna geheim\x07nis\n", "the key anna must be"),
        (b"anna \xff\xfe\xff\xfe\xff\xfe\xff\xfe", "cannot be read: it is not text in UTF-8"),
    ],
)
def test_bad_key_files(tmp_path, content, told):
    with pytest.raises(UsageError) as caught:
        read_keys(write(tmp_path, content), None)
    assert told in caught.value.message
    message = (caught.value.message + caught.value.hint).replace(str(tmp_path), "")
    assert not any(key in message for key in ("-secret", "short", "geheim"))


def test_a_key_file_that_cannot_be_read(tmp_path):
    for file in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match=r"cannot be read: (No such file or directory|Is a directory)"):
            read_keys(file, None)


def test_the_environments_key():
    assert read_keys(None, None) == read_keys(None, "") == {}
    assert read_keys(None, "from-outside") == {"key": "from-outside"}
    with pytest.raises(UsageError, match="the environment: the key key must be 8 or more") as caught:
        read_keys(None, "secret\n")
    assert "secret" not in caught.value.message
