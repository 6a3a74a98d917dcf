"""Token ids -> text, a piece at a time.

Invariant: the pieces joined, `flush()` included, equal the tokenizer's decode of all ids. A piece never ends in the
middle of a character: the bytes of an emoji or a Chinese character may be spread over several tokens.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Detokenizer:
    """Decodes one stream. `left_out` are the ids that stand for no text, by default the special tokens.

    Each id is decoded a few times, however long the stream and however broken its bytes:

    - in vocabularies of bytes a character has at most four tokens, so that the last four tell whether the newest one
      ends a character;
    - in vocabularies that fall back on bytes (`<0xE9>`) a run of such tokens is text as a whole or not at all, so it is
      decoded once it has ended;
    - new tokens are decoded after those of the last piece, for a token may read otherwise at the beginning of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, left_out: Container[int] | None = None) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        if left_out is None:
            left_out = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._left_out = left_out
        self._ids: list[int] = []  # of the last piece, then those not yet out
        self._context = 0  # how many of them are the last piece's
        self._before = ""  # the text of those

    def push(self, token: int) -> str:
        """The text that has become certain with this token; may be empty."""
        text = self._tokenizer.id_to_token(token)
        if text is None or token in self._left_out:
            return ""
        self._ids.append(token)
        if _BYTE.fullmatch(text):
            return ""
        decoded = self._decode(self._ids[-4:])
        if decoded.endswith("\ufffd"):
            return ""
        return self._through(decoded if len(self._ids) <= 4 else self._decode(self._ids))

    def flush(self) -> str:
        """What is left at the end of the stream, replacement characters for broken bytes included."""
        return self._through(self._decode(self._ids))

    def _through(self, text: str) -> str:
        """Let through what is not out of `text`, which is that of all ids held."""
        out = text[len(self._before) :]
        if out:
            del self._ids[: self._context]
            text = self._decode(self._ids)
        self._context, self._before = len(self._ids), text
        return out

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text
