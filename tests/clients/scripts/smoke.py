"""What the scripts share: where the server is, what they ask, and one line of JSON about what was run.

A script's functions marked `check` are run in their order, each to its end or its first failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel

URL = sys.argv[1]
MODEL = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
QUESTION = "What is the capital of France?"
SYSTEM = "You are a helpful assistant."
MEETING: list[Any] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "My name is Tomas."},
]

_checks: list[Callable[[], Any]] = []


class City(BaseModel):
    """The form of a structured answer, and what the tool wants to know; every field of it is short."""

    name: Literal["Paris", "Lima"]
    capital: bool


SCHEMA = City.model_json_schema()
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": SCHEMA}}


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run it with `report`, awaited if it is a coroutine."""
    _checks.append(function)
    return function


@contextlib.contextmanager
def raises(kind: type[Exception]) -> Iterator[list[Any]]:
    """What is done here must end in such an error; it is then in the list."""
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
        return
    raise AssertionError(f"no {kind.__name__} came")


def _outcome(runner: asyncio.Runner, function: Callable[[], Any]) -> str:
    try:
        result = function()
        if inspect.iscoroutine(result):
            runner.run(result)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"[:300]
    return "ok"


def report(distribution: str) -> None:
    """Run the checks, print what came of them, and exit with 1 if one failed."""
    with asyncio.Runner() as runner:  # one event loop, for clients keep their connections
        ran = {function.__name__: _outcome(runner, function) for function in _checks}
    print(json.dumps({"client": distribution, "version": version(distribution), "ran": ran}))
    sys.exit(set(ran.values()) != {"ok"})
