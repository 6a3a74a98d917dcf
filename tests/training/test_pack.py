"""Packing: what a row holds, spelled out, and what must hold for any examples."""

from __future__ import annotations

from os.path import commonprefix

from hypothesis import given
from hypothesis import strategies as st

from arriero.prompt import Rendered
from arriero.training.pack import fill, loss_tokens, pack, split, tokens_of


def test_a_row_spelled_out():
    row = pack([Rendered((1, 9, 5, 20, 2), ((3, 5),)), Rendered((1, 9, 6, 7, 30, 31, 2), ((4, 7),))], share=True)
    assert row.ids.tolist() == [[1, 9, 5, 20, 2, 6, 7, 30, 31, 2]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5, 6]]
    assert (row.lengths, row.parents, row.leaves) == ((2, 3, 5), (-1, 0, 0), (1, 2))
    assert row.loss_positions.tolist() == [2, 3, 6, 7, 8]
    assert row.targets.tolist() == [20, 2, 30, 31, 2]


def test_answers_that_follow_the_same_prompt_are_all_predicted_from_its_last_token():
    row = pack([Rendered((1, 9, 20, 2), ((2, 4),)), Rendered((1, 9, 30, 2), ((2, 4),))], share=True)
    assert row.ids.tolist() == [[1, 9, 20, 2, 30, 2]]
    assert row.loss_positions.tolist() == [1, 2, 1, 4]
    assert row.targets.tolist() == [20, 2, 30, 2]


def test_nested_prefixes_are_a_tree():
    """Two turns of one conversation and another one: only what all begin with was shared."""
    first = Rendered((1, 9, 3, 4, 20, 21, 2), ((4, 7),))
    second = Rendered((1, 9, 3, 4, 20, 2, 5, 30, 2), ((7, 9),))
    third = Rendered((1, 9, 3, 4, 20, 2, 5, 31, 6, 40, 2), ((9, 11),))
    other = Rendered((1, 8, 50, 2), ((2, 4),))
    row = pack([third, other, first, second], share=True)
    assert row.ids.tolist() == [[1, 8, 50, 2, 9, 3, 4, 20, 21, 2, 20, 2, 5, 30, 2, 20, 2, 5, 31, 6, 40, 2]]
    assert (row.lengths, row.parents) == ((1, 3, 3, 3, 5, 7), (-1, 0, 0, 2, 2, 2)), "branches lie at multiples of 4"
    assert row.leaves == (5, 1, 3, 4)
    longer = pack(
        [Rendered((*third.ids[:7], 30, 2), ((7, 9),)), third, Rendered((*third.ids[:8], 1, 2), ())], share=True
    )
    assert (longer.lengths, longer.parents) == ((7, 1, 2, 2, 3), (-1, 0, 0, 1, 1)), "but for the root"


def test_equal_examples_are_computed_once_and_learnt_twice():
    same = Rendered((1, 9, 20, 2), ((2, 4),))
    row = pack([same, same], share=True)
    assert row.ids.tolist() == [[1, 9, 20, 2]]
    assert row.loss_positions.tolist() == [1, 2, 1, 2]
    assert row.targets.tolist() == [20, 2, 20, 2]


def test_without_sharing_every_example_is_whole():
    row = pack([Rendered((1, 9, 20), ((2, 3),)), Rendered((1, 9, 30), ((2, 3),))], share=False)
    assert row.ids.tolist() == [[1, 9, 20, 1, 9, 30]]
    assert row.positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert row.loss_positions.tolist() == [1, 4]


def test_a_row_is_filled_up_with_a_segment_that_teaches_nothing():
    row = fill(pack([Rendered((1, 9, 20), ((2, 3),)), Rendered((1, 9, 30), ((2, 3),))], share=True), 8)
    assert row.ids.tolist() == [[1, 9, 20, 30, 1, 1, 1, 1]]
    assert row.positions.tolist() == [[0, 1, 2, 2, 0, 1, 2, 3]]
    assert (row.lengths, row.parents, row.targets.tolist()) == ((2, 1, 1, 4), (-1, 0, 0, -1), [20, 30])


@st.composite
def some_examples(draw):
    """Some go on from what another one begins with, so that there are prefixes within prefixes."""
    prefix = draw(st.lists(st.integers(0, 5), max_size=6))
    examples = []
    for _ in range(draw(st.integers(1, 8))):
        earlier = list(draw(st.sampled_from(examples)).ids) if examples and draw(st.booleans()) else prefix
        begun = earlier[: draw(st.integers(0, len(earlier)))] if earlier is not prefix else prefix
        prompt = begun + draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
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
        assert row.computed == tokens_of(part, share=share) == sum(row.lengths)
        assert all(row.lengths)
        assert all(parent < child for child, parent in enumerate(row.parents))
        targets = iter(row.targets.tolist())
        at = iter(row.loss_positions.tolist())
        for number, example in enumerate(part):
            columns = row.columns(number).tolist()
            assert tuple(row.ids[0, columns].tolist()) == example.ids
            assert row.positions[0, columns].tolist() == list(range(len(example.ids)))
            for start, end in example.loss_spans:
                assert [next(targets) for _ in range(start, end)] == list(example.ids[start:end])
                assert [next(at) for _ in range(start, end)] == columns[start - 1 : end - 1]
        total += len(row.targets)
    assert total == loss_tokens(examples)


@given(some_examples())
def test_a_tree_has_no_more_tokens_than_a_shared_prefix(examples):
    common = min(len(commonprefix([example.ids, examples[0].ids])) for example in examples)  # noqa: RUF071  of any sequences
    flat = common + sum(len(example.ids) - common for example in examples)
    assert tokens_of(examples, share=True) <= flat
