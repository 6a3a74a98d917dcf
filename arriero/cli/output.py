"""Standard output carries answers and JSON documents, standard error everything that is for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import sys
from typing import Any

from arriero import settings
from arriero.formatting import duration as duration
from arriero.formatting import size as size


def log_to_stderr(*, engines: bool = True) -> None:
    """Show what the library announces: plain lines, warnings marked; if `engines`, which engine, where that is new."""
    logger = logging.getLogger("arriero")
    if not logger.handlers:
        logger.addHandler(_Announce())
    for handler in logger.handlers:
        if isinstance(handler, _Announce):
            handler.engines = engines
    logger.setLevel(logging.INFO)


class _Announce(logging.Handler):
    engines = True

    def emit(self, record: logging.LogRecord) -> None:
        model_dir = getattr(record, "model_dir", None)  # of a line that says which engine computes it
        if model_dir is not None and not (self.engines and _is_news(model_dir, record.getMessage())):
            return
        note(("" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: ") + record.getMessage())


def _is_news(model_dir: str, choice: str) -> bool:
    """Whether the engine for a model was another the last time; keeps this one. Where nothing can be kept, it is."""
    file = settings.cache_dir() / "engines.json"
    last: Any = {}
    with contextlib.suppress(OSError, ValueError):
        last = json.loads(file.read_text(encoding="utf-8"))
    choices = last if isinstance(last, dict) else {}
    if choices.get(model_dir) == choice:
        return False
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**choices, model_dir: choice}, indent=2), encoding="utf-8")
    return True


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
