"""API keys: read from a file or the environment, compared in constant time, never written anywhere.

A client sends one as `Authorization: Bearer KEY`, or, where it sends no such header, as `x-api-key: KEY`, which is
Anthropic's way. A browser, which asks its user, sends it as the password of HTTP Basic
(https://www.rfc-editor.org/rfc/rfc7617, any user name) and gets a cookie for what it cannot send that header with, such
as the page's WebSocket.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from arriero.errors import UsageError

COOKIE = "arriero_key"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: the name of the key, for logs and limits, and whether it is the administrator's."""

    name: str
    admin: bool = False


class Keys:
    """The keys that are good here. Without any, everybody is let in, but nobody is the administrator."""

    def __init__(self, keys: Mapping[str, str], admin: str | None = None) -> None:
        """`keys` are keys by name; `admin` is the administrator's, who may do everything."""
        self._secret = secrets.token_bytes(32)  # cookies are good as long as this process lives
        self.required = bool(keys)  # whether a request without one is refused
        named = [(Caller(name), key) for name, key in keys.items()]
        if admin is not None:
            named.append((Caller("admin", admin=True), admin))
        self._callers = [(caller, _digest(key), self._cookie(key)) for caller, key in named]

    @property
    def administered(self) -> bool:
        """Whether there is an administrator's key."""
        return any(caller.admin for caller, _, _ in self._callers)

    def caller(self, headers: Headers) -> Caller | None:
        """Who sent a request with these headers; None for nobody that is known here."""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        match scheme.lower():
            case "bearer":
                sent = credentials.strip()
            case "basic":
                sent = _password(credentials)
            case _:
                sent = headers.get("x-api-key", "")
        digest, cookie = _digest(sent), cookie_parser(headers.get("cookie", "")).get(COOKIE, "").encode()
        sender = None
        for caller, good_digest, good_cookie in self._callers:  # all of them, and no `or`: the time tells nothing
            if hmac.compare_digest(digest, good_digest) | hmac.compare_digest(cookie, good_cookie.encode()):
                sender = caller
        return sender

    def owner(self, caller: Caller) -> str:
        """A digest of the caller's key, by which what is kept for it is known; "" for anybody without a key."""
        return next((digest.hex() for keyed, digest, _ in self._callers if keyed == caller), "")

    def owned(self, owner: str) -> Caller | None:
        """The caller whose things are kept under `owner`; None where its key is not good any more."""
        if not owner:
            return None if self.required else Caller("a batch")
        return next((caller for caller, digest, _ in self._callers if digest.hex() == owner), None)

    def cookie(self, caller: Caller, *, secure: bool) -> str:
        """The Set-Cookie header by which a browser is known from now on; `secure` over HTTPS only."""
        value = next(cookie for keyed, _, cookie in self._callers if keyed == caller)
        return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"

    def _cookie(self, key: str) -> str:
        return hmac.new(self._secret, key.encode(), hashlib.sha256).hexdigest()


def read_keys(file: Path | None, environment: str | None) -> dict[str, str]:
    """Keys by name from a file with one key, or a name and a key, on each line, or from the environment's one key.

    Raises UsageError, which never holds a key, for a file that cannot be read or holds what is no key.
    """
    if file is None:
        return _checked([("key", environment)], "the environment") if environment else {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UsageError(f"the key file {file} cannot be read: {reason}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise UsageError(f"{file}, line {number}: expected a key, or a name and a key, got {len(words)} words")
        pairs.append((words[0] if len(words) == 2 else f"key-{number}", words[-1]))
    if not pairs:
        raise UsageError(f"{file} holds no key", hint='one for each line: python -c "import secrets; '
                         'print(secrets.token_urlsafe(32))"')  # fmt: skip
    return _checked(pairs, str(file))


def _checked(pairs: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, key in pairs:
        if name in keys or key in keys.values() or name == "admin":
            raise UsageError(f"{where}: the name {name} or its key is there twice, or taken")
        if len(key) < 8 or not key.isascii() or not key.isprintable():
            raise UsageError(f"{where}: the key {name} must be 8 or more ASCII characters")
        keys[name] = key
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
