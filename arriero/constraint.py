"""What an answer may look like, as a small tree that every engine turns into its own library's grammar.

JsonSchema({"type": "object", …})                         JSON that fits a schema
Text("<tool_call>\\n")                                    exactly this text
Series((Text("<tool_call>"), JsonSchema(…), …))           one after the other
Choice((JsonSchema(call), JsonSchema(answer)))            one of them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON value that fits `schema` (https://json-schema.org)."""

    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """Parts in order, with nothing between."""

    parts: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the alternatives."""

    alternatives: tuple[Constraint, ...]


Constraint = JsonSchema | Text | Series | Choice
