"""Which pages may send requests through a browser, by their origin (https://www.rfc-editor.org/rfc/rfc6454).

No page can choose its origin: the browser writes the header. LOCAL are those that only programs of this machine can
have, a web server of its own or an application with a scheme of its own; they are let in where every program of this
machine is, on loopback without keys. Ollama does the same by a like list. "null", which a sandboxed frame of any site
has, is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")  # noqa: S104  nothing listens there
SCHEMES = ("app", "file", "tauri", "vscode-file", "vscode-webview")
LOCAL = (
    *(f"{scheme}://{name}:*" for scheme in ("http", "https") for name in LOOPBACK_NAMES),
    *(f"{scheme}://*" for scheme in SCHEMES),
)
SITE = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")  # an origin, or a pattern of one


def pattern_of(origins: Collection[str]) -> re.Pattern[str]:
    """What a page's origin matches as a whole if it is one of `origins`.

    "*" alone is every origin, ":*" at the end every port and none, and "*" elsewhere whatever has no slash in it.
    """
    return re.compile("|".join(".+" if origin == "*" else _escaped(origin) for origin in origins))


def _escaped(origin: str) -> str:
    pattern = re.sub(r":\\\*$", r"(:[0-9]+)?", re.escape(origin))
    return pattern.replace(r"\*", r"[^/\s]*")
