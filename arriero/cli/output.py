"""Standard output carries answers and JSON documents, standard error everything that is for a person."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from typing import Any

from arriero.formatting import size as size


def log_to_stderr() -> None:
    """Show what the library announces: plain lines, warnings marked."""
    logger = logging.getLogger("arriero")
    if not logger.handlers:
        logger.addHandler(_Announce())
    logger.setLevel(logging.INFO)


class _Announce(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(("" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: ") + record.getMessage())


def error(message: str, *, hint: str = "") -> None:
    """Say what went wrong and what to try."""
    note(f"error: {message}" + (f"\n  try: {hint}" if hint else ""))


def note(text: str) -> None:
    """A line for the person."""
    print(text, file=sys.stderr, flush=True)


def prompt(system: str | None, contract: str | None) -> None:
    """Say under which system prompt figures were taken, and whose contract holds."""
    text = "the chat template's own" if system is None else repr(system)
    note(f"system prompt: {text}" + ("" if contract is None else f"; contract of {contract}"))


def document(value: Any) -> None:
    """Print one JSON document: a dataclass, or plain lists, dictionaries, numbers and text."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    text = json.dumps(plain, ensure_ascii=False, indent=2, default=str)
    print(re.sub("[\x7f-\x9f]", lambda control: f"\\u{ord(control[0]):04x}", text))  # terminals obey these, too


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
