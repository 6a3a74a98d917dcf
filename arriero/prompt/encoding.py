"""A rendered conversation -> token ids, and where in them its answers begin.

The text is tokenized once. Where a tokenizer would merge characters across the beginning of an answer, it is tokenized
in two parts there, as it happens in generation too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arriero.prompt.tracing import Spans, private

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

Ids = list[int]


@dataclass(frozen=True, slots=True)
class RenderedText:
    """A rendered conversation before it is tokenized.

    `answer_starts` are the positions in `text` where an answer begins, ascending, `turns` those messages' indices.
    `structure` are the spans of the special tokens that the template wrote, None where the text holds no others.
    `learnt` are those of `turns` that training takes a loss on. A `document` is no conversation: all after its one
    answer start is learnt.
    """

    text: str
    answer_starts: tuple[int, ...]
    turns: tuple[int, ...]
    structure: Spans | None = None
    learnt: tuple[int, ...] = ()
    document: bool = False


class Encoder:
    """Tokenizes with `backend`, in which `specials` are the ids and texts of the special tokens.

    `unknown` is the one among them, if any, that also stands for characters the vocabulary lacks.
    """

    def __init__(self, backend: Tokenizer, specials: Mapping[int, str], unknown: int | None) -> None:
        self._backend = backend
        self._specials = specials
        self._unknown = unknown
        self._cache: dict[str, Ids] = {}

    def encode(self, texts: list[str]) -> list[Encoding]:
        """Tokenize texts as they are."""
        encodings: list[Encoding] = self._backend.encode_batch(texts, add_special_tokens=False)
        return encodings

    def starts(self, rendered: RenderedText, encoding: Encoding) -> tuple[Ids, list[int]]:
        """The ids, and for each answer start the index of the first id after it."""
        ids: Ids = encoding.ids
        starts = [self._clean_start(rendered.text, ids, start, encoding) for start in rendered.answer_starts]
        if None not in starts:
            return ids, [start for start in starts if start is not None]
        return self._in_parts(rendered.text, rendered.answer_starts)

    def astray(self, text: str, encoding: Encoding, structure: Spans) -> str | None:
        """The first special token that was read out of anything but the structure, if there is one."""
        written = {start for start, _ in structure}
        for index, token in enumerate(encoding.ids):
            if token in self._specials:
                start, end = encoding.token_to_chars(index) or (0, 0)
                lacking = token == self._unknown and self._specials[token] not in text[start:end]
                if not lacking and written.isdisjoint(range(start, end)):
                    return self._specials[token]
        return None

    def _clean_start(self, text: str, ids: Ids, answer_start: int, encoding: Encoding) -> int | None:
        """The index of the id that begins there, if the ids before it are certainly those of the prompt alone.

        They are when a special token stands before it, for tokenizers never merge across one, and the ids
        between the two are those of that bit of text by itself. None means: not certain.
        """
        start = encoding.char_to_token(answer_start)
        if start is None or _begin(encoding, start) != answer_start:
            return None
        special = start - 1
        while special >= 0 and ids[special] not in self._specials:
            special -= 1
        if special < 0:
            return None
        between = text[_begin(encoding, special) : answer_start]
        return start if ids[special:start] == self._alone(between) else None

    def _alone(self, text: str) -> Ids:
        """The ids of a piece of text; remembered, since what precedes an answer is nearly always the same."""
        cache = self._cache
        if text not in cache and len(cache) < 1000:
            cache[text] = self.encode([text])[0].ids
        return cache[text] if text in cache else self.encode([text])[0].ids

    def _in_parts(self, text: str, answer_starts: tuple[int, ...]) -> tuple[Ids, list[int]]:
        """Tokenize so that at every answer start the ids before it are those of the prompt alone, by definition."""
        if not answer_starts:
            return self.encode([text])[0].ids, []
        head, starts = self._in_parts(text[: answer_starts[-1]], answer_starts[:-1])
        whole: Ids = self.encode([text])[0].ids
        if whole[: len(head)] != head:
            whole = head + self.encode([text[answer_starts[-1] :]])[0].ids
        return whole, [*starts, len(head)]


class LiteralEncoder(Encoder):
    """Takes special tokens only where they are in the private-use area (`lifted`); all others are text.

    It has a copy of the tokenizer, where text has no special tokens, and the lifted ones are ordinary added ones.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tokenizers import AddedToken, Tokenizer

        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.encode_special_tokens = True
        specials = {index: token for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        stand_ins = []
        for token in specials.values():
            options = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
            stand_ins.append(AddedToken(private(token.content), normalized=False, special=False, **options))
        backend.add_tokens(stand_ins)
        moved = {private(token.content): index for index, token in specials.items()}
        added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
        self._real = {index: moved[text] for index, text in added.items() if text in moved}
        super().__init__(backend, {index: added[index] for index in (*self._real, *specials)}, tokenizer.unk_token_id)

    def starts(self, rendered: RenderedText, encoding: Encoding) -> tuple[Ids, list[int]]:
        """See `Encoder.starts`; the ids are the tokenizer's own."""
        ids, starts = super().starts(rendered, encoding)
        return [self._real.get(token, token) for token in ids], starts


def _begin(encoding: Encoding, token: int) -> int:
    """The position in the text where a token begins; -1 for a token that stands for no text."""
    span = encoding.token_to_chars(token)
    return -1 if span is None else span[0]
