"""The arguments of a call as an object, for the APIs whose clients take nothing else."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json

from arriero.messages import ToolCall

INVALID = "INVALID_JSON"  # https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming


def as_object(call: ToolCall) -> dict[str, Any]:
    """The arguments by name; of a call that the limit of tokens cut off, those that are whole.

    What is no JSON object, or has numbers or texts that cannot be sent, is its text under INVALID.
    """
    try:
        values = from_json(call.arguments or "{}", allow_partial=True)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        values = None
    return values if isinstance(values, dict) else {INVALID: call.arguments}


def as_object_text(call: ToolCall) -> str:
    """The arguments as the model wrote them, where `as_object` can read that."""
    values = as_object(call)
    return json.dumps(values, ensure_ascii=False) if INVALID in values else call.arguments
