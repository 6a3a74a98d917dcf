"""What is wrong with text that is not JSON, and what to do about it."""

from __future__ import annotations

import json
import re

CUT_OFF = "was the file cut off while copying?"
RAW_NEWLINE = r"a line break within a text is written \n"
WORDS = re.compile(r"True|False|None")


def cause_of(error: json.JSONDecodeError, *, line: bool = False) -> str:
    """What to do about a value that cannot be parsed; `line` says that it stood on a line of its own, not the last."""
    text, at = error.doc, error.pos
    after, before = text[at : at + 8], text[:at].rstrip()
    if error.msg.startswith("Unterminated string"):
        return RAW_NEWLINE if line else CUT_OFF
    if error.msg.startswith("Invalid control character"):
        return RAW_NEWLINE if after[:1] in "\r\n" else r"control characters are written \u00XX"
    if after.startswith(("//", "/*", "#")):
        return "JSON has no comments: remove them"
    if after.startswith("'"):
        return 'names and texts stand in double quotes: "…"'
    if before.endswith(",") and after[:1] in ("}", "]"):
        return f"remove the comma before {after[:1]}"
    if WORDS.match(after):
        return "write null, true and false: None, True and False are Python's"
    if error.msg.startswith("Invalid \\"):
        return r"a backslash within a text is written \\"
    if not text[at:].strip():
        return "a row is a whole on its line: was the file cut off, or the row broken into lines?" if line else CUT_OFF
    if error.msg.startswith("Expecting ',' delimiter"):
        return 'a comma is missing, or a quote within a text, which is written \\"'
    return 'expected names and texts in double quotes, a colon between them: {"instruction": "…", "output": "…"}'
