"""ArrieroLLM: text in, text out; and the tutorial's class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import LLM, LanguageModelInput
from langchain_core.outputs import GenerationChunk
from langchain_core.runnables import Runnable

from arriero.langchain.convert import prompt_value
from arriero.langchain.models import OverChat
from arriero.messages import Message, Piece


class ArrieroLLM(OverChat, LLM):
    """Text in, text out: each prompt is one user message. A stream's last chunk carries finish reason and usage."""

    _kind = "llm"
    # LangChain's text models answer a batch one prompt after the other. In threads, as its chat models do it, the
    # engine computes the answers together: eight of them took a third of the time on two CPU cores.
    batch = Runnable.batch
    abatch = Runnable.abatch

    @property
    def _llm_type(self) -> str:
        return "arriero"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return self._complete(prompt, stop, kwargs)[0].text

    async def _acall(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return (await self._acomplete(prompt, stop, kwargs))[0].text

    def _given(self, prompt: LanguageModelInput) -> str:
        return prompt_value(prompt).to_string()

    def _turns(self, prompt: str) -> Sequence[Message]:
        return [Message("user", prompt)]

    def _chunk(self, piece: Piece, facts: dict[str, Any]) -> GenerationChunk:
        return GenerationChunk(text=piece.text, generation_info=facts or None)


class LLaMA3_1_LLM(ArrieroLLM):  # noqa: N801  the tutorial's name
    """The tutorial's class: its constructor, and its system prompt where there is no adapter with one of its own."""

    def __init__(self, model_name_or_path: str | Path | None = None, **options: Any) -> None:
        if options.get("adapter") is None and options.get("chat") is None:
            options = {"system": "You are a helpful assistant.", **options}
        if model_name_or_path is not None:
            options["model"] = model_name_or_path
        super().__init__(**options)
