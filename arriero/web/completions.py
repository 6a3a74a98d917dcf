"""The answers in flight: each belongs to its conversation, not to a tab or a script run.

Streamlit breaks a run off at every click, and a reload begins another session. So answers are read on one event loop
in a thread of its own, and saved as they grow; whoever looks at the conversation draws what is there.
"""

from __future__ import annotations

import asyncio
import threading

from arriero.errors import ArrieroError
from arriero.web.backend import Backend
from arriero.web.background import Background, failure
from arriero.web.completion import LiveCompletion, Request


class LiveCompletions:
    """All answers of this process, at most one for each conversation. From any thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._answers: dict[int, LiveCompletion] = {}
        self._lock = threading.Lock()
        self._background = Background("answers")

    def get(self, conversation: int | None) -> LiveCompletion | None:
        """The answer in flight in a conversation, or its last one where that came to no good end."""
        return self._answers.get(conversation) if conversation is not None else None

    def start(self, request: Request) -> LiveCompletion:
        """Begin an answer, after stopping the one in flight in the same conversation."""
        self.stop(request.conversation)
        answer = LiveCompletion(request)
        if (continued := request.continued) is not None:
            answer.text, answer.node = continued.message.content, continued.id
            answer.thought = continued.message.reasoning_content or ""
        with self._lock:
            if (other := self._answers.get(request.conversation)) is not None:  # of another thread, since
                self._background.call(_cancel, other)
            self._answers[request.conversation] = answer
            self._background.call(self._begin, answer)
        return answer

    def stop(self, conversation: int, seconds: float = 5.0) -> None:
        """Stop the answer in flight, if there is one, keep what was said, and forget what came to no good end.

        Returns when what was said is saved, or after `seconds`.
        """
        with self._lock:
            answer = self._answers.pop(conversation, None)
        if answer is not None:
            self._background.call(_cancel, answer)
            answer.ended.wait(seconds)

    def close(self) -> None:
        """Stop all answers, and the thread."""
        for conversation in list(self._answers):
            self.stop(conversation)
        self._background.close()

    def _begin(self, answer: LiveCompletion) -> None:
        def end(_: asyncio.Task[None]) -> None:
            if not answer.ended.is_set():  # stopped before it began
                answer.finish_reason = "cancelled"
                answer.ended.set()

        answer._task = asyncio.get_running_loop().create_task(self._run(answer))
        answer._task.add_done_callback(end)

    async def _run(self, answer: LiveCompletion) -> None:
        asked = answer.request
        try:
            # In a thread: this renders the prompt. Should nobody wait for it any more, letting go of it cancels it.
            pieces = await asyncio.to_thread(
                self._backend.astream,
                asked.model,
                asked.messages,
                asked.sampling,
                continue_final_message=asked.continued is not None,
                thinking=asked.thinking,
            )
            await answer.read(pieces)
        except asyncio.CancelledError:
            answer.finish_reason = "cancelled"
        except Exception as error:
            answer.error = failure(error)
        finally:
            await self._end(answer)

    async def _end(self, answer: LiveCompletion) -> None:
        answer._ending, answer._pieces = True, None  # letting go of an adapter that may be gone by now
        try:
            await asyncio.to_thread(answer.save)
        except ArrieroError as error:
            answer.error = answer.error or error
        with self._lock:
            good = answer.error is None and answer.node is not None
            if good and self._answers.get(answer.request.conversation) is answer:
                del self._answers[answer.request.conversation]
        answer.ended.set()


def _cancel(answer: LiveCompletion) -> None:
    if answer._task is not None and not answer._ending:
        answer._task.cancel()
