"""Bodies of which more is taken than is used, for APIs whose clients send fields that mean nothing here.

What cannot change the answer is ignored and named in the log; what would change it, and is not supported, is declared
as `Unsupported` and refused by its name.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from arriero.server.body import RequestBody, StopString

log = logging.getLogger(__name__)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _refused(value: object) -> object:
    if value:
        raise PydanticCustomError("extra_forbidden", "This is not supported")  # as a field that is not declared
    return value


Whole = Annotated[int, BeforeValidator(_whole)]  # 16.0 is one, for JSON knows no other numbers
Unsupported = Annotated[Any, AfterValidator(_refused)]  # null, false, empty and 0 ask for nothing
Stops = Annotated[list[StopString], Field(max_length=64)]


class Lenient(RequestBody):
    """Base of such bodies: unknown fields are taken, known ones have exactly their types."""

    model_config = ConfigDict(extra="allow")


def note_ignored(path: str, body: BaseModel) -> None:
    """Name in the log, once for each path, what `body` holds and nobody reads."""
    for name in _ignored(body):
        _note(path, name[:80])


@functools.lru_cache(maxsize=1000)
def _note(path: str, name: str) -> None:
    log.info("%s: the field %r is taken and has no effect", path, name)


def _ignored(body: BaseModel) -> Iterator[str]:
    yield from body.model_extra or ()
    for name in type(body).model_fields:
        value = getattr(body, name)
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, BaseModel):
                yield from (f"{name}.{inner}" for inner in _ignored(each))
