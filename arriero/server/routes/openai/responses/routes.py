"""`POST /v1/responses`, whole or as a stream, and the responses that are kept."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from arriero.chat import Stream
from arriero.errors import ArrieroError
from arriero.messages import Message
from arriero.server.errors import RequestError
from arriero.server.lenient import note_ignored
from arriero.server.routes.openai.logprobs import prepare
from arriero.server.routes.openai.responses.builder import ResponseBuilder, head
from arriero.server.routes.openai.responses.items import Item, ReferenceItem, from_stored, kept, to_messages
from arriero.server.routes.openai.responses.schemas import ResponseRequest
from arriero.server.routes.openai.responses.store import ResponseStore, StoredResponse
from arriero.server.service import Service
from arriero.server.streaming import STREAM_TOO, EventStream, while_connected

log = logging.getLogger(__name__)
PATH = "/v1/responses"
ONE = f"{PATH}/{{response_id}}"


class ResponseBody(BaseModel, extra="allow"):
    """A response; times are in seconds since 1970."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class Deleted(BaseModel):
    """A response that was forgotten."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(BaseModel):
    """Some of the items that a response answered."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def add_routes(app: FastAPI, service: Service) -> None:
    """Add responses to `app`."""
    conversations = _Conversations(ResponseStore() if service.keeps_responses else None)
    _add_stored_routes(app, service, conversations)

    @app.post(PATH, response_model=ResponseBody, responses=STREAM_TOO)
    async def respond(body: ResponseRequest, request: Request) -> Response:
        """Answer a text or a conversation, at once or as a stream of server-sent events."""
        served = service.models.find(body.model)
        prompt_options, top_logprobs, owner = body.prompt_options(), body.alternatives(), _owner(service, request)
        items = await run_in_threadpool(conversations.items, owner, body)
        system = [] if body.instructions is None else [Message("system", body.instructions)]
        messages = [*system, *to_messages(items)]
        note_ignored(request, body)

        def start(_: int) -> Stream:
            prepare(served.chat, top_logprobs)
            return served.chat.stream(
                messages, body.sampling_for(body.max_output_tokens), logprobs=top_logprobs, **prompt_options
            )

        async def keep(response: dict[str, Any]) -> bool:
            return await run_in_threadpool(conversations.keep, owner, response, items)

        streams = await service.begin(request, served, start)
        builder = ResponseBuilder(served.chat, head(served, body, store=conversations.keeps(body)), keep)
        if body.stream:
            return EventStream(builder.events(streams), streams)
        try:
            return JSONResponse(await while_connected(request.receive, builder.whole(streams)))
        finally:
            streams.close()


def _add_stored_routes(app: FastAPI, service: Service, conversations: _Conversations) -> None:
    @app.get(ONE, response_model=ResponseBody)
    def retrieve(response_id: str, request: Request, *, stream: bool = False) -> Response:
        """A stored response."""
        if stream:
            raise RequestError("only background responses can be streamed again", param="stream")
        return JSONResponse(conversations.get(_owner(service, request), response_id).response)

    @app.delete(ONE)
    def delete(response_id: str, request: Request) -> Deleted:
        """Forget a stored response. Those that continue it keep what they have of it."""
        conversations.delete(_owner(service, request), response_id)
        return Deleted(id=response_id)

    @app.get(f"{ONE}/input_items")
    def list_items(
        response_id: str,
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> ItemList:
        """The items that a kept response answered, those of the responses before it too; `after` is an item's id."""
        items = conversations.get(_owner(service, request), response_id).items
        return _page(items if order == "asc" else items[::-1], after, limit)

    @app.post(f"{ONE}/cancel", response_model=ResponseBody)
    def cancel(response_id: str, request: Request) -> Response:
        """Refused: only background responses can be cancelled, and there are none."""
        conversations.get(_owner(service, request), response_id)
        raise RequestError("only background responses can be cancelled, and this server has none")


def _owner(service: Service, request: Request) -> str:
    return service.keys.owner(request.scope["record"].caller)


def _page(items: list[dict[str, Any]], after: str | None, limit: int) -> ItemList:
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise RequestError(f"there is no item {after!r}", param="after")
    begin = 0 if after is None else ids.index(after) + 1
    data, shown = items[begin : begin + limit], ids[begin : begin + limit]
    first, last = (shown[0], shown[-1]) if shown else (None, None)
    return ItemList(data=data, first_id=first, last_id=last, has_more=begin + limit < len(items))


class _Conversations:
    """Whole conversations from the store; without one, nothing is kept and what needs it is refused."""

    def __init__(self, store: ResponseStore | None) -> None:
        self._store = store

    def keeps(self, body: ResponseRequest) -> bool:
        """Whether the response to this request is kept."""
        return self._store is not None and body.store is not False

    def items(self, owner: str, body: ResponseRequest) -> list[Item]:
        """The whole conversation of a request: what the previous response has, then its own items."""
        conversation: list[Item] = []
        if body.previous_response_id is not None:
            before = self._previous(owner, body.previous_response_id)
            conversation += from_stored([*before.items, *before.response["output"]])
        for number, item in enumerate(body.items()):
            stored = self._item(owner, item, f"input[{number}]") if isinstance(item, ReferenceItem) else item
            conversation.append(stored)
        return conversation

    def keep(self, owner: str, response: dict[str, Any], items: list[Item]) -> bool:
        """Keep a response; False where that failed, which the log tells: the answer itself is good."""
        if self._store is None:
            return False
        try:
            self._store.put(owner, StoredResponse(response, kept(items)))
        except ArrieroError as error:
            log.warning("%s", error)
            return False
        return True

    def get(self, owner: str, identity: str) -> StoredResponse:
        """A kept response; RequestError 404 where there is none."""
        stored = self._store.get(owner, identity) if self._store is not None else None
        if stored is None:
            raise self._missing(f"the response {identity!r}")
        return stored

    def delete(self, owner: str, identity: str) -> None:
        """Forget a response; RequestError 404 where there is none."""
        if self._store is None or not self._store.delete(owner, identity):
            raise self._missing(f"the response {identity!r}")

    def _previous(self, owner: str, identity: str) -> StoredResponse:
        param, code = "previous_response_id", "previous_response_not_found"
        if self._store is None:
            raise _not_stored(param)
        stored = self._store.get(owner, identity)
        if stored is None:
            raise self._missing(f"the response {identity!r}", param, code)
        return stored

    def _item(self, owner: str, item: ReferenceItem, param: str) -> Item:
        if self._store is None:
            raise _not_stored(param)
        stored = self._store.item(owner, item.id)
        if stored is None:
            raise self._missing(f"the item {item.id!r}", param)
        return from_stored([stored])[0]

    def _missing(self, what: str, param: str | None = None, code: str | None = None) -> RequestError:
        why = "; the server was started with --no-store" if self._store is None else ""
        return RequestError(f"{what} is not kept here{why}", param=param, code=code, status=404)


def _not_stored(param: str) -> RequestError:
    message = "no responses are kept: the server was started with --no-store; send the whole conversation instead"
    return RequestError(message, param=param, code="unsupported_parameter")
