"""Which format a record is in, under the names that people give its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arriero.data.options import FormatName
from arriero.errors import UsageError

FIELDS: dict[FormatName, tuple[str, ...]] = {
    "alpaca": ("instruction", "input", "output", "system", "history", "tools"),
    "messages": ("messages", "system", "tools", "functions"),
    "sharegpt": ("conversations", "system", "tools"),
    "prompt-completion": ("prompt", "completion", "system", "tools"),
    "text": ("text",),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A format under certain names: `names` are our field -> theirs, of those that a record needs."""

    format: FormatName
    names: tuple[tuple[str, str], ...]

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has all these fields; one that is null counts as missing."""
        return all(record.get(theirs) is not None for _, theirs in self.names)

    @property
    def told(self) -> str:
        """The format, and which names were understood as which."""
        others = [f"{theirs} as {ours}" for ours, theirs in self.names if ours != theirs]
        return f"{self.format}, {', '.join(others)}" if others else self.format


def _shape(name: FormatName, **names: str) -> Shape:
    return Shape(name, tuple(names.items()))


# The first that fits is taken: what says most comes first.
SHAPES = (
    _shape("messages", messages="messages"),
    _shape("sharegpt", conversations="conversations"),
    _shape("sharegpt", conversations="conversation"),
    _shape("alpaca", instruction="instruction", output="output"),
    _shape("prompt-completion", prompt="prompt", completion="completion"),
    _shape("alpaca", instruction="instruction", input="context", output="response"),
    _shape("alpaca", instruction="instruction", output="response"),
    _shape("alpaca", instruction="query", output="response"),
    _shape("alpaca", instruction="question", output="answer"),
    _shape("prompt-completion", prompt="prompt", completion="response"),
    _shape("prompt-completion", prompt="input", completion="output"),
    _shape("text", text="text"),
)
_MESSAGES_UNDER_PROMPT = _shape("prompt-completion", prompt="prompt")
KNOWN = frozenset(theirs for shape in SHAPES for _, theirs in shape.names)


def shape_of(record: Any, name: FormatName = "auto") -> Shape | None:
    """The shape of a record, of the format `name` unless that is auto; None where it has none."""
    if not isinstance(record, Mapping):
        return None
    for shape in SHAPES:
        if name in ("auto", shape.format) and shape.fits(record):
            return shape
    listed = isinstance(record.get("prompt"), list) and name in ("auto", "prompt-completion")
    return _MESSAGES_UNDER_PROMPT if listed else None


def renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A record whose fields `names` (ours -> theirs) have our names; raises UsageError where ours is no name."""
    ours = {field for fields in FIELDS.values() for field in fields}
    if unknown := sorted(names.keys() - ours):
        raise UsageError(
            f"columns names {', '.join(unknown)}, which no format has", hint=f"the names are {', '.join(sorted(ours))}"
        )
    theirs = set(names.values())
    made = {name: value for name, value in record.items() if name not in theirs and name not in names}
    return made | {name: record[column] for name, column in names.items() if column in record}
