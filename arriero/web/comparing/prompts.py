"""Prompts to compare by: typed, one a line, or from a file."""

from __future__ import annotations

import json
from pathlib import PurePath

from arriero.errors import DataError, UsageError

FILES = ("txt", "jsonl")
FIELDS = ("prompt", "question", "instruction")
MOST = 100  # prompts in a round


def prompts(typed: str, name: str | None = None, content: bytes = b"") -> list[str]:
    """The prompts of `typed` and of the file, blank lines aside.

    A .txt file has one prompt a line; a line of a .jsonl file is a string, or an object with a field "prompt",
    "question" or "instruction" (with "input" below it, where there is one). Raises DataError with the row of a line
    that is neither, UsageError for more than MOST prompts.
    """
    texts = [line.strip() for line in typed.split("\n") if line.strip()]
    if name is not None:
        try:
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise DataError(name, f"not UTF-8 text: byte {error.start}") from error
        rows = [(row, line.strip()) for row, line in enumerate(lines) if line.strip()]
        texts += [_prompt(name, row, line) for row, line in rows]
    if len(texts) > MOST:
        raise UsageError(f"there are {len(texts)} prompts, at most {MOST} are compared at once", hint="use fewer")
    return texts


def _prompt(name: str, row: int, line: str) -> str:
    if PurePath(name).suffix.lower() != ".jsonl":
        return line
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(name, f"not JSON: {error}", row=row) from error
    if isinstance(value, dict):
        text = next((value[field] for field in FIELDS if value.get(field)), None)
        more = value.get("input")
        value = f"{text}\n{more}" if text and more else text
    if not isinstance(value, str) or not value.strip():
        raise DataError(name, f"expected a string, or an object with one of {', '.join(FIELDS)}", row=row)
    return value.strip()
