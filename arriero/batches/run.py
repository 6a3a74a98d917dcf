"""Ask what has no answer yet, several at a time, and keep each answer as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from arriero.batches.journal import Journal
from arriero.batches.requests import Requests


@dataclass(frozen=True, slots=True)
class RowResponse:
    """What a row's request was answered; a status of 400 or above is a failure."""

    status_code: int
    request_id: str
    body: Any


# takes url and body; None: nothing is answered any more, now
Ask = Callable[[str, dict[str, Any]], Awaitable[RowResponse | None]]


async def answer_all(
    requests: Requests, journal: Journal, ask: Ask, *, at_once: int, kept: Callable[[], None] = lambda: None
) -> None:
    """Answer every request that `journal` lacks, `at_once` at the same time, with `ask`; `kept` is called after each.

    Returns also when nothing is answered any more; what is in flight then is waited for. Raises what `ask` raises, and
    ArrieroError where the journal cannot be written; the answers of before are kept.
    """
    rows = iter(journal.missing)

    async def work() -> None:
        for row in rows:  # shared by all: each row has one worker
            request = requests.read(opened, row)
            answer = await ask(request["url"], request["body"])
            if answer is None:
                return
            response = {"status_code": answer.status_code, "request_id": answer.request_id, "body": answer.body}
            journal.append({"id": row.id, "custom_id": row.custom_id, "response": response, "error": None})
            kept()

    with requests.file.open("rb") as opened:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
