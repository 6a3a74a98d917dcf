"""Whether a model is to think before it answers, for the APIs that have a word for that."""

from __future__ import annotations

from dataclasses import replace

from arriero.chat import Chat, PromptOptions
from arriero.messages import Sampling
from arriero.server.errors import RequestError


def with_thinking(
    chat: Chat,
    options: PromptOptions,
    sampling: Sampling,
    enabled: bool | None,
    *,
    param: str,
    limit: int | None = None,
) -> tuple[PromptOptions, Sampling]:
    """Prompt options and sampling of an answer before which the model thinks, at most `limit` tokens, or does not.

    It does by its chat template's own switch; where there is none, the limit is 0. None leaves it to the model.
    RequestError where it is enabled for a model that does not think.
    """
    tags = chat.renderer.tags
    if enabled is None or (tags is None and not enabled):
        return options, sampling
    if tags is None:
        message = f"{chat.model} does not support thinking: its chat template has no place for it"
        raise RequestError(message, param=param, code="unsupported_parameter")
    if tags.switch is not None:
        options = {
            **options,
            "chat_template_kwargs": {**(options.get("chat_template_kwargs") or {}), tags.switch: enabled},
        }
    elif not enabled:
        limit = 0
    return options, replace(sampling, max_reasoning_tokens=limit)
