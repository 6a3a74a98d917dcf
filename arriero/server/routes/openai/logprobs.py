"""Log-probabilities as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arriero.chat import Chat
from arriero.messages import TokenLogprob

IMPOSSIBLE = -9999.0


def prepare(chat: Chat, asked: int | None) -> None:
    """Have ready what spells tokens, where log-probabilities are `asked` for; once it takes long: not on the loop."""
    if asked is not None:
        chat.spell(0)


def logprob(value: float) -> float:
    """As OpenAI writes it: -9999.0 is a token that cannot come, and JSON has no infinity and no NaN."""
    return value if value > IMPOSSIBLE else IMPOSSIBLE


def token_entry(chat: Chat, token_id: int, value: float) -> dict[str, Any]:
    """A token in the shape of chat completions: its text, log-probability and bytes."""
    spelled = chat.spell(token_id)
    return {"token": spelled.decode(errors="replace"), "logprob": logprob(value), "bytes": list(spelled)}


def token_entries(chat: Chat, tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their alternatives in the shape of chat completions."""
    return [
        token_entry(chat, token.token_id, token.logprob)
        | {"top_logprobs": [token_entry(chat, other, value) for other, value in token.top]}
        for token in tokens
    ]
