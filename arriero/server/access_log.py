"""What is known of one request when it is over, for the log."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any

from arriero.server.auth import Caller

LONGEST_PATH = 200
access = logging.getLogger("arriero.server.access")


@dataclass(slots=True, eq=False)
class AccessRecord:
    """One request. Times are in seconds since it came."""

    id: str
    caller: Caller
    method: str
    path: str
    status: int | None = None  # None where the client left before there was one
    model: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float | None = None
    first_token_s: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    clamped: int | None = None  # the limit of tokens, where the window has room for fewer than were asked for
    ignored: str = ""  # the fields that were sent in vain, as the header names them
    refused: str | None = None  # the error's code, where it was turned away
    background: bool = False  # asked by a batch
    body: Any = None  # set only where prompts are logged
    begun: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return round(time.perf_counter() - self.begun, 4)

    def log(self, level: int) -> None:
        """Write the request's line."""
        fields: dict[str, Any] = {
            "request_id": self.id,
            "client": self.caller.name,
            "method": self.method,
            "path": self.path[:LONGEST_PATH],
            "status": self.status,
            "total_s": self.elapsed(),
        }
        if self.model is not None:
            for name in ("model", "prompt_tokens", "completion_tokens", "queue_s", "first_token_s", "finish_reasons"):
                fields[name] = getattr(self, name)
        for name in ("refused", "body"):
            if getattr(self, name) is not None:
                fields[name] = getattr(self, name)
        access.log(level, "request", extra={"fields": fields})


class LogFormat(logging.Formatter):
    """A line for each entry: as JSON for programs, or for people."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._as_json = as_json

    def format(self, entry: logging.LogRecord) -> str:
        """The line; the fields of a request beside what every entry has."""
        fields: dict[str, Any] = getattr(entry, "fields", {})
        if not self._as_json:
            pairs = " ".join(f"{name}={_word(value)}" for name, value in fields.items() if value is not None)
            return f"{super().format(entry)} {pairs}".rstrip()
        line = {
            "time": self.formatTime(entry, "%Y-%m-%dT%H:%M:%S%z"),
            "level": entry.levelname.lower(),
            "logger": entry.name,
            "message": entry.getMessage(),
            **fields,
        }
        if entry.exc_info:
            line["exception"] = self.formatException(entry.exc_info)
        return _printable(json.dumps(line, ensure_ascii=False, default=str))


def _word(value: object) -> str:
    """A value as one word: quoted as in JSON unless it is plain, so that nothing sent can look like another field."""
    if isinstance(value, list) and all(isinstance(element, str) for element in value):
        value = ",".join(value)
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    plain = re.fullmatch(r'[^\s"=\x00-\x1f\x7f-\x9f]+', value)
    return value if plain else _printable(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """JSON without what it allows and terminals obey, or take for the end of a line."""
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
