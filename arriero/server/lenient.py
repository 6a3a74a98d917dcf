"""Bodies of which more is taken than is used, for APIs whose clients send fields that mean nothing here.

What cannot change the answer is ignored, and named in the log and in the header `x-arriero-ignored`; what would change
it, and is not supported, is declared as `Unsupported` and refused by its name.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import CoreSchema, no_info_after_validator_function
from starlette.requests import Request

from arriero.server.errors import RequestError
from arriero.server.schemas import RequestBody, StopString

if TYPE_CHECKING:
    from arriero.server.access_log import AccessRecord

log = logging.getLogger(__name__)
LONGEST_NAME, LONGEST_HEADER = 80, 1000  # characters


@dataclass(frozen=True, eq=False)
class RefusedUnless:
    """Refuses a field by its name, unless its value is null or one of `neutral`, which ask for nothing else."""

    neutral: tuple[object, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's hook: check after the type."""
        return no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic's hook: the values that are taken."""
        return {"enum": [None, *self.neutral]}

    def _checked(self, value: object) -> object:
        # True == 1 and False == 0 in Python, but not in JSON.
        matches = (value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.neutral)
        if value is None or any(matches):
            return value
        allowed = "" if self is NOTHING else " or ".join(map(json.dumps, self.neutral))
        # The error type of fields that are not declared at all, so that `errors` describes both in the same words.
        raise PydanticCustomError("extra_forbidden", "This is not supported", {"allowed": allowed})


NOTHING = RefusedUnless((False, 0, "", [], {}))
NO_EFFECT = object()  # marks fields that nobody reads
Unsupported = Annotated[Any, NOTHING]
NullOnly = Annotated[Any, RefusedUnless(())]  # refused with any value but null: even an empty one asks for something
Ignored = Annotated[Any, NO_EFFECT]
Stops = Annotated[list[StopString], Field(max_length=64)]


class LenientBody(RequestBody):
    """Base of such bodies: unknown fields are kept in `model_extra`, known ones have exactly their types."""

    model_config = ConfigDict(extra="allow")

    def overridden(self) -> Iterable[str]:
        """The fields that others make ineffective."""
        return ()


class OpenAIBody(LenientBody):
    """Base of those of OpenAI's API: where the server is strict, fields that are not declared are refused."""


def note_ignored(request: Request, body: LenientBody) -> None:
    """Name what `body` holds and nobody reads: in the response's header, and in the log once for each path.

    RequestError for a field that is not declared where the server is strict.
    """
    record: AccessRecord = request.scope["record"]
    strict = isinstance(body, OpenAIBody) and request.app.state.service.strict
    # Indices go: one name stands for a field of all messages, and a client cannot fill the log or its cache.
    names = set(body.overridden())
    for param, declared in _ignored(body):
        if strict and not declared:
            raise RequestError(f"the field {param} is not supported", param=param, code="unsupported_parameter")
        names.add(re.sub(r"\[\d+\]", "", param)[:LONGEST_NAME])
    for name in names:
        _note(record.path, name)
    record.ignored = _header(sorted(names))


@functools.lru_cache(maxsize=1000)
def _note(path: str, name: str) -> None:
    log.info("%s: the field %r is taken and has no effect", path, name)


def _header(names: Iterable[str]) -> str:
    """The names as a header may hold them, which ends with "..." where there are too many."""
    text = ", ".join(quote(name, safe="", errors="replace") for name in names)
    return text if len(text) <= LONGEST_HEADER else f"{text[:LONGEST_HEADER].rpartition(', ')[0]}, ..."


def _ignored(body: BaseModel, path: str = "") -> Iterator[tuple[str, bool]]:
    """Which fields of a body are not read, as `messages[0].id`, and whether they are declared nevertheless."""
    declared, without_effect = _fields(type(body))
    for name in body.model_fields_set:
        value = getattr(body, name) if name in declared else (body.model_extra or {})[name]
        if name not in declared and value is not None:
            yield path + name, False
        elif name in without_effect and value:  # false and nothing at all are obeyed
            yield path + name, True
        if isinstance(value, BaseModel):
            yield from _ignored(value, f"{path}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from _ignored(item, f"{path}{name}[{index}].")


@functools.cache
def _fields(kind: type[BaseModel]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of all declared fields, and of those without effect."""
    declared = kind.model_fields
    return frozenset(declared), frozenset(name for name, field in declared.items() if NO_EFFECT in field.metadata)
