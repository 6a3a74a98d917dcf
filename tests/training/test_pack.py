"""Packing: what a row holds, spelled out, and what must hold for any examples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arriero.prompt import Rendered
from arriero.training.pack import fill, loss_tokens, pack, shared_prefix, split


def test_a_row_spelled_out():
    row = pack([Rendered((1, 9, 5, 20, 2), ((3, 5),)), Rendered((1, 9, 6, 7, 30, 31, 2), ((4, 7),))], share=True)
    assert row.ids.tolist() == [[1, 9, 5, 20, 2, 6, 7, 30, 31, 2]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5, 6]]
    assert (row.prefix, row.lengths) == (2, (3, 5))
    assert row.loss_at.tolist() == [2, 3, 6, 7, 8]
    assert row.targets.tolist() == [20, 2, 30, 31, 2]


def test_answers_that_follow_the_same_prompt_are_all_predicted_from_its_last_token():
    row = pack([Rendered((1, 9, 20, 2), ((2, 4),)), Rendered((1, 9, 30, 2), ((2, 4),))], share=True)
    assert row.ids.tolist() == [[1, 9, 20, 2, 30, 2]]
    assert row.loss_at.tolist() == [1, 2, 1, 4]
    assert row.targets.tolist() == [20, 2, 30, 2]


def test_equal_examples_share_their_prompt_and_never_a_loss_token():
    same = Rendered((1, 9, 20, 2), ((2, 4),))
    assert shared_prefix([same, same]) == 2
    row = pack([same, same], share=True)
    assert row.ids.tolist() == [[1, 9, 20, 2, 20, 2]]
    assert row.loss_at.tolist() == [1, 2, 1, 4]


def test_without_sharing_every_example_is_whole():
    row = pack([Rendered((1, 9, 20), ((2, 3),)), Rendered((1, 9, 30), ((2, 3),))], share=False)
    assert row.ids.tolist() == [[1, 9, 20, 1, 9, 30]]
    assert row.positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert row.loss_at.tolist() == [1, 4]


def test_a_row_is_filled_up_with_an_example_that_teaches_nothing():
    row = fill(pack([Rendered((1, 9, 20), ((2, 3),)), Rendered((1, 9, 30), ((2, 3),))], share=True), 8)
    assert row.ids.tolist() == [[1, 9, 20, 30, 1, 1, 1, 1]]
    assert row.positions.tolist() == [[0, 1, 2, 2, 2, 3, 4, 5]]
    assert (row.lengths, row.targets.tolist()) == ((1, 1, 4), [20, 30])


@st.composite
def some_examples(draw):
    prefix = draw(st.lists(st.integers(0, 5), max_size=6))
    examples = []
    for _ in range(draw(st.integers(1, 8))):
        prompt = prefix + draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
        answer = draw(st.lists(st.integers(0, 3), min_size=1, max_size=9))
        examples.append(Rendered((*prompt, *answer), ((len(prompt), len(prompt) + len(answer)),)))
    return examples


@given(some_examples(), st.integers(1, 40), st.booleans(), st.integers(1, 4))
def test_every_example_is_in_one_row_and_every_loss_token_is_predicted_once(examples, row_tokens, share, at_least):
    parts = split(examples, row_tokens, share=share, at_least=at_least)
    assert sorted(example.ids for part in parts for example in part) == sorted(example.ids for example in examples)
    assert len(parts) >= min(at_least, len(examples))
    total = 0
    for part in parts:
        row = pack(part, share=share)
        assert row.computed <= row_tokens or len(part) == 1
        assert row.computed == row.prefix + sum(row.lengths)
        wanted = sorted(token for example in part for start, end in example.spans for token in example.ids[start:end])
        assert sorted(row.targets.tolist()) == wanted
        # an example is the prefix and its own tokens, in positions that count up
        start = row.prefix
        for example, length in zip(part, row.lengths, strict=True):
            ids = row.ids[0, : row.prefix].tolist() + row.ids[0, start : start + length].tolist()
            assert tuple(ids) == example.ids
            assert row.positions[0, start : start + length].tolist() == list(range(row.prefix, len(example.ids)))
            start += length
        total += len(row.targets)
    assert total == loss_tokens(examples)
