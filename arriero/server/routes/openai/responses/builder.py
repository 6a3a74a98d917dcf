"""A response, from its beginning to its end, and the events that tell of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

from arriero.chat import Chat
from arriero.messages import CallDelta, Piece, Usage
from arriero.server.errors import describe
from arriero.server.models import ServedModel
from arriero.server.routes.openai.logprobs import token_entries
from arriero.server.routes.openai.responses.items import new_id
from arriero.server.routes.openai.responses.schemas import ResponseRequest
from arriero.server.routes.openai.schemas import now
from arriero.server.streaming import MergedStreams, event, finish_of

Event = dict[str, Any]  # with its type, without its number
Keep = Callable[[dict[str, Any]], Awaitable[bool]]  # keeps a whole response; whether that was done


def head(served: ServedModel, body: ResponseRequest, *, store: bool) -> dict[str, Any]:
    """What a response says of its request, and of how it is answered."""
    sampling = body.sampling_for(body.max_output_tokens).over(served.chat.defaults)
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text is not None else {}
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": now(),
        "model": served.name,
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": body.reasoning or {"effort": None, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": sampling.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
        "error": None,
        "incomplete_details": None,
    }


class OutputBuilder:
    """The items of an answer as they grow: pieces go in, the events of what they change come out.

    At most one item, the last, is open. It is closed by what begins the next, by the end of its call, or by the end.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self.items: list[dict[str, Any]] = []
        self._open = False
        self._calls = 0  # that were begun
        self._whole_calls = 0

    def push(self, piece: Piece) -> Iterator[Event]:
        """The events of a piece."""
        if piece.reasoning:
            yield from self._thought(piece.reasoning)
        # Text beside the rest of the open call follows it, and closes it.
        begun = self._calls
        for delta in piece.call_deltas:
            if delta.index < begun:
                yield from self._call(delta)
        if piece.text or piece.logprobs:
            yield from self._text(piece)
        for delta in piece.call_deltas:
            if delta.index >= begun:
                yield from self._call(delta)
        self._whole_calls += len(piece.tool_calls)
        all_whole = self._calls == self._whole_calls and piece.finish_reason in (None, "tool_calls")
        if piece.tool_calls and all_whole and self.items[-1]["type"] == "function_call":
            yield from self._close()

    def end(self, reason: str) -> Iterator[Event]:
        """The last events; an answer without anything is one without text."""
        if not self.items:
            yield from self._text(Piece(""))
        yield from self._close("incomplete" if reason == "length" else "completed")

    def _thought(self, text: str) -> Iterator[Event]:
        if not self._open:
            yield from self._begin({"type": "reasoning", "summary": [], "content": []})
            self.items[-1]["content"].append({"type": "reasoning_text", "text": ""})
        self.items[-1]["content"][0]["text"] += text
        yield self._event("reasoning_text.delta", **self._at_part, delta=text)

    def _text(self, piece: Piece) -> Iterator[Event]:
        if not self._open or self.items[-1]["type"] != "message":
            yield from self._begin({"type": "message", "role": "assistant", "content": []})
            part = _part()
            yield self._event("content_part.added", **self._at_part, part=dict(part))
            self.items[-1]["content"].append(part)
        part = self.items[-1]["content"][0]
        entries = token_entries(self._chat, piece.logprobs)
        part["text"] += piece.text
        part["logprobs"] += entries
        if piece.text or entries:
            yield self._event("output_text.delta", **self._at_part, delta=piece.text, logprobs=entries)

    def _call(self, delta: CallDelta) -> Iterator[Event]:
        if delta.index == self._calls:
            self._calls += 1
            call = {"call_id": delta.id, "name": delta.name, "arguments": ""}
            yield from self._begin({"type": "function_call", **call})
        if delta.arguments:
            self.items[-1]["arguments"] += delta.arguments
            yield self._event("function_call_arguments.delta", **self._at_item, delta=delta.arguments)

    def _begin(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._close()
        self.items.append({"id": new_id(item["type"]), **item, "status": "in_progress"})
        self._open = True
        # A copy: the item grows while its event may still wait to be sent.
        yield self._event("output_item.added", output_index=len(self.items) - 1, item=_shallow_copy(self.items[-1]))

    def _close(self, status: str = "completed") -> Iterator[Event]:
        if not self._open:
            return
        self._open = False
        item = self.items[-1]
        item["status"] = status
        if item["type"] == "message":
            [part] = item["content"]
            yield self._event("output_text.done", **self._at_part, text=part["text"], logprobs=part["logprobs"])
            yield self._event("content_part.done", **self._at_part, part=part)
        elif item["type"] == "reasoning":
            yield self._event("reasoning_text.done", **self._at_part, text=item["content"][0]["text"])
        else:
            call = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("function_call_arguments.done", **self._at_item, **call)
        yield self._event("output_item.done", output_index=len(self.items) - 1, item=item)

    @property
    def _at_item(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    @property
    def _at_part(self) -> dict[str, Any]:
        return {**self._at_item, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", **fields}


class ResponseBuilder:
    """One answer under its `head`; `keep` is for the whole response, before the client has it."""

    def __init__(self, chat: Chat, head: dict[str, Any], keep: Keep) -> None:
        self._head = head
        self._output = OutputBuilder(chat)
        self._keep = keep
        self._number = 0

    async def whole(self, streams: MergedStreams) -> dict[str, Any]:
        """The response to a request without a stream."""
        *_, last = [event_data async for event_data in self._events(streams)]
        return dict(last["response"])

    async def events(self, streams: MergedStreams) -> AsyncGenerator[bytes, None]:
        """The events of a stream, in the order that OpenAI's have."""
        try:
            async for event_data in self._events(streams):
                yield self._bytes(event_data)
        except Exception as error:
            fault = describe(error)[1]["error"]
            error_event = {"code": fault["code"] or fault["type"], "message": fault["message"], "param": None}
            yield self._bytes({"type": "error", **error_event})
            failure = {"code": "server_error", "message": fault["message"]}
            yield self._bytes({"type": "response.failed", "response": self._snapshot("failed", error=failure)})

    async def _events(self, streams: MergedStreams) -> AsyncGenerator[Event, None]:
        """All events but those of a failure; the last has the whole response."""
        for kind in ("created", "in_progress"):
            yield {"type": f"response.{kind}", "response": self._snapshot("in_progress")}
        async for _, piece in streams:
            for event_data in self._output.push(piece):
                yield event_data
            if piece.finish_reason is not None:
                reason, usage = finish_of(piece)
                for event_data in self._output.end(reason):
                    yield event_data
                response = await self._ended(reason, usage)
                yield {"type": f"response.{response['status']}", "response": response}

    async def _ended(self, reason: str, usage: Usage) -> dict[str, Any]:
        """The whole response; incomplete where it reached the limit of tokens."""
        response = self._snapshot("completed", output=self._output.items, usage=_usage(usage), completed_at=now())
        if reason == "length":
            details = {"reason": "max_output_tokens"}
            response |= {"status": "incomplete", "incomplete_details": details, "completed_at": None}
        response["store"] = response["store"] and await self._keep(response)
        return response

    def _snapshot(self, status: str, **more: Any) -> dict[str, Any]:
        return {**self._head, "status": status, "output": [], "usage": None, **more}

    def _bytes(self, event_data: Event) -> bytes:
        data = {**event_data, "sequence_number": self._number}
        self._number += 1
        return event(data, name=data["type"])


def _part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _shallow_copy(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "content": []} if "content" in item else dict(item)
