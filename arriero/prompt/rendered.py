"""Rendered: the ids of one example, and the spans of them that training takes a loss on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of an example, and the spans [start, end) of them that training takes a loss on predicting."""

    ids: tuple[int, ...]
    loss_spans: tuple[tuple[int, int], ...]

    @property
    def mask(self) -> tuple[bool, ...]:
        """For each id whether it is in a loss span."""
        mask = [False] * len(self.ids)
        for start, end in self.loss_spans:
            mask[start:end] = [True] * (end - start)
        return tuple(mask)

    def pieces(self, length: int) -> list[Rendered]:
        """Consecutive pieces of at most `length` ids, with what of the spans is in each; none of a single id."""
        pieces = []
        for at in range(0, max(1, len(self.ids) - 1), length):
            ids = self.ids[at : at + length]
            spans = [(max(start - at, 0), min(end - at, len(ids))) for start, end in self.loss_spans]
            pieces.append(Rendered(ids, tuple((start, end) for start, end in spans if start < end)))
        return pieces

    def cut(self, length: int) -> Rendered | None:
        """Shortened to `length` ids by cutting the last answer and keeping its end token; None if there is no room."""
        start, end = self.loss_spans[-1]
        if end <= length < len(self.ids):
            return Rendered(self.ids[:end], self.loss_spans)
        if start >= length - 1 or len(self.ids) <= length:
            return self if len(self.ids) <= length else None
        ids = (*self.ids[: length - 1], self.ids[end - 1])
        return Rendered(ids, (*self.loss_spans[:-1], (start, length)))
