"""Whether a model is to think before it answers, for the APIs that have a word for that."""

from __future__ import annotations

from dataclasses import replace

from arriero.chat import Chat, PromptOptions
from arriero.messages import Sampling
from arriero.server.errors import RequestError


def asked(
    chat: Chat, form: PromptOptions, sampling: Sampling, wanted: bool | None, *, param: str, limit: int | None = None
) -> tuple[PromptOptions, Sampling]:
    """The form and the sampling of an answer before which the model thinks, at most `limit` tokens, or does not.

    It does by its chat template's own switch; where there is none, the limit is 0. None leaves it to the model.
    RequestError where it is wanted of a model that does not think.
    """
    tags = chat.renderer.tags
    if wanted is None or (tags is None and not wanted):
        return form, sampling
    if tags is None:
        message = f"{chat.model} does not support thinking: its chat template has no place for it"
        raise RequestError(message, param=param, code="unsupported_parameter")
    if tags.switch is not None:
        form = {**form, "chat_template_kwargs": {**(form.get("chat_template_kwargs") or {}), tags.switch: wanted}}
    elif not wanted:
        limit = 0
    return form, replace(sampling, max_reasoning_tokens=limit)
