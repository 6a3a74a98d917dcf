"""What an answer may look like, as a small tree that every engine turns into its own library's grammar.

JsonSchema({"type": "object", …})                         JSON that fits a schema
Text("<tool_call>\\n")                                    exactly this text
Series((Text("<tool_call>"), JsonSchema(…), …))           one after the other
Choice((JsonSchema(call), JsonSchema(answer)))            one of them
Reasoned(…, JsonSchema(answer), limit=500)                reasoning first, and then one of these
"""

from __future__ import annotations

import functools
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arriero.errors import UsageError

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

MAX_DEPTH = 64  # levels of objects and lists in a schema: ten nested objects have about thirty
MAX_VALUES = 20_000  # objects, lists and all that is in them: the grammar of that many takes seconds
MAX_LEVELS = 1_000  # with references followed: llguidance uses 4 KB of stack for each, and beyond 8 MB the process dies


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON value that fits `schema`, which is kept as a copy in JSON's own types.

    Raises UsageError, which names the path within it, for what is no JSON schema of Draft 2020-12
    (https://json-schema.org/draft/2020-12), and for one beyond the limits above. Engines need not check again.
    """

    schema: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.schema, Mapping):
            raise UsageError(f"a JSON schema must be an object, got {type(self.schema).__name__}")
        _check_size(given := dict(self.schema))
        try:
            text = json.dumps(given, allow_nan=False, ensure_ascii=False).encode()
            plain = json.loads(text, parse_float=_number)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the JSON schema is not JSON: {error}") from error
        for fault in _meta_schema().iter_errors(plain):
            raise UsageError(f"the JSON schema is wrong at {_described(fault)}")
        object.__setattr__(self, "schema", plain)


def _check_size(schema: dict[str, Any]) -> None:
    """Raise UsageError for what is too deep or too large; ends for an object that holds itself, too."""
    values = depth = 1
    references: set[str] = set()
    bases: set[str] = set()  # from each, one reference may lead to another part
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, level = waiting.pop()
        if not isinstance(value, dict | list | tuple):
            continue
        values, depth = values + len(value), max(depth, level)
        if depth > MAX_DEPTH or values > MAX_VALUES:
            raise UsageError(f"a JSON schema may have at most {MAX_DEPTH} levels and {MAX_VALUES} values")
        if isinstance(value, dict):
            references |= {str(value["$ref"])} if "$ref" in value else set()
            bases |= {str(value["$id"])} if "$id" in value and level > 1 else set()
        waiting += [(inner, level + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    parts = (1 + len(references)) * (1 + len(bases))
    if parts * depth > MAX_LEVELS:
        raise UsageError(
            f"a JSON schema's references may lead through at most {MAX_LEVELS} levels, "
            f"got {parts} different parts of up to {depth} levels"
        )


def _number(text: str) -> float:
    """JSON Schema makes no difference between 3.0 and 3, which the engines' libraries do."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


@functools.cache
def _meta_schema() -> Draft202012Validator:
    """What every JSON schema fits."""
    from jsonschema_rs import Draft202012Validator  # where a schema is first made, not where this file is imported

    return Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"}, mask="the value")


def _described(fault: ValidationError) -> str:
    """Where a schema is wrong, as `$ref` would write it, and why."""
    branches = getattr(fault.kind, "context", ())  # of alternatives, the one that came furthest says most
    fault = max((branch[0] for branch in branches), key=lambda branch: len(branch.instance_path), default=fault)
    pointer = "/".join(["#", *(str(key).replace("~", "~0").replace("/", "~1") for key in fault.instance_path)])
    return f"{pointer}: {fault.message}, got {reprlib.repr(fault.instance)}"


@dataclass(frozen=True, slots=True)
class Text:
    """Exactly this text."""

    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """Parts in order, with nothing between."""

    parts: tuple[Plain, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the alternatives."""

    alternatives: tuple[Plain, ...]


@dataclass(frozen=True, slots=True)
class Reasoned:
    """Reasoning between two tags, then the `answer`: any text where that is None. Only at the top of a tree.

    Tags are ids or, where a tag is several tokens, texts. With `opened` the prompt has written the opening one; else
    the model may write it first, or answer at once. `limit` is the most tokens of reasoning, for tags that are ids.
    `stop_token_ids` end a turn, and may not come within the reasoning.
    """

    opening: int | str
    closing: int | str
    opened: bool
    answer: Plain | None
    limit: int | None
    stop_token_ids: tuple[int, ...]


Plain = JsonSchema | Text | Series | Choice
Constraint = Plain | Reasoned
