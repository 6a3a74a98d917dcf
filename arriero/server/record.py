"""What is known of one request when it is over, for the log."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from arriero.server.keys import Caller

access = logging.getLogger("arriero.server.access")


@dataclass(slots=True, eq=False)
class Record:
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
    body: Any = None  # set only where prompts are logged
    begun: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return round(time.perf_counter() - self.begun, 4)

    def log(self) -> None:
        """Write the request's line."""
        fields: dict[str, Any] = {
            "request_id": self.id,
            "client": self.caller.name,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "total_s": self.elapsed(),
        }
        if self.model is not None:
            for name in ("model", "prompt_tokens", "completion_tokens", "queue_s", "first_token_s", "finish_reasons"):
                fields[name] = getattr(self, name)
        if self.body is not None:
            fields["body"] = self.body
        access.info("request", extra={"fields": fields})


class LogFormat(logging.Formatter):
    """A line for each entry: as JSON for programs, or for people."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._as_json = as_json

    def format(self, entry: logging.LogRecord) -> str:
        """The line; the fields of a request beside what every entry has."""
        fields: dict[str, Any] = getattr(entry, "fields", {})
        if not self._as_json:
            told = " ".join(f"{name}={_word(value)}" for name, value in fields.items() if value is not None)
            return f"{super().format(entry)} {told}".rstrip()
        line = {
            "time": self.formatTime(entry, "%Y-%m-%dT%H:%M:%S%z"),
            "level": entry.levelname.lower(),
            "logger": entry.name,
            "message": entry.getMessage(),
            **fields,
        }
        if entry.exc_info:
            line["exception"] = self.formatException(entry.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).replace("\n", "\\n")
