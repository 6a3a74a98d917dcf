"""Token ids -> text, a piece at a time.

Invariant: the pieces joined, `flush()` included, equal the tokenizer's decode of all ids. A piece never ends in the
middle of a character: the bytes of an emoji or a Chinese character may be spread over several tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Detokenizer:
    """Decodes one stream; special tokens are left out of the text.

    Only a short tail is decoded again for each token: the text of the ids since `_offset` is compared with and
    without the newest one, and what is new is emitted once it ends in a whole character.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._offset = 0  # decoding starts here; text before `_read` is already out
        self._read = 0

    def push(self, token: int) -> str:
        """The text that has become certain with this token; may be empty."""
        self._ids.append(token)
        before = self._decode(self._ids[self._offset : self._read])
        after = self._decode(self._ids[self._offset :])
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return ""
        self._offset, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        """What is left at the end of the stream, replacement characters for broken bytes included."""
        before = self._decode(self._ids[self._offset : self._read])
        after = self._decode(self._ids[self._offset :])
        self._offset = self._read = len(self._ids)
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)
