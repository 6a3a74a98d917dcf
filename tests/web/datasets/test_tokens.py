"""Ids as coloured text: no id is lost, characters stay whole, nothing becomes markup."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arriero.web.datasets.tokens import Piece, as_html, pieces
from tests.conftest import build_tokenizer, ids_of

TOKENIZER = build_tokenizer()


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def cut(ids, mask):
    return pieces(ids, mask, decode, lambda token: token < 6)


def test_a_character_of_several_ids_is_one_piece_and_specials_stand_alone():
    ids = [5, *ids_of("骆a"), 2]
    mask = [False, *[True] * 4, True]
    assert cut(ids, mask) == [
        Piece((5,), "<bot>", False, True),
        Piece(tuple(ids_of("骆")), "骆", True, False),
        Piece(tuple(ids_of("a")), "a", True, False),
        Piece((2,), "</s>", True, True),
    ]


@given(st.lists(st.tuples(st.integers(0, 261), st.booleans()), max_size=40))
def test_every_id_is_in_one_piece_of_its_own_colour_whatever_the_bytes(row):
    ids, mask = [token for token, _ in row], [loss for _, loss in row]
    seen = cut(ids, mask)
    assert [token for piece in seen for token in piece.ids] == ids
    assert [piece.loss for piece in seen for _ in piece.ids] == mask


@given(st.text())
def test_the_pieces_of_a_text_read_as_the_text(text):
    ids = ids_of(text.encode("utf-8", "replace").decode())
    assert "".join(piece.text for piece in cut(ids, [True] * len(ids))) == decode(ids)


def test_a_leading_space_that_a_tokenizer_drops_at_the_beginning_is_shown():
    """Metaspace decoders, as of Llama 2 and Mistral, gave "twowords" for two words."""
    words = {1: " two", 2: " words"}
    seen = pieces([1, 2], [True, True], lambda ids: "".join(words[i] for i in ids).removeprefix(" "), lambda _: False)
    assert [piece.text for piece in seen] == ["two", " words"]


def test_what_a_file_holds_is_text_and_line_ends_are_visible():
    seen = [Piece((7, 8), "<img src=x onerror=1>\n", True, False), Piece((9,), "a\nb", False, False)]
    html = as_html(seen)
    assert '<span class="l" title="7 8">&lt;img src=x onerror=1&gt;↵</span>\n<span' in html
    assert ">a↵\nb</span></div>" in html
