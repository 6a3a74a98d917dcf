"""The split: no prompt on both sides, whatever the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arriero.data import Example, split
from arriero.messages import Conversation, Message


def example(row: int, question: str) -> Example:
    return Example(row, Conversation((Message("user", question), Message("assistant", f"answer {row}"))))


questions = st.lists(st.sampled_from(["who?", "what?", "你是谁？", "why?", "how?", "when?"]), max_size=40)


@given(questions, st.floats(0, 0.99), st.integers(0, 5), st.randoms())
def test_no_prompt_stands_on_both_sides_and_order_does_not_matter(asked, fraction, seed, random):
    examples = [example(row, question) for row, question in enumerate(asked)]
    train, held_out = split(examples, fraction, seed)
    assert sorted([*train, *held_out], key=lambda e: e.row) == examples

    def prompts(part):
        return {e.conversation.messages[0].content for e in part}

    assert not prompts(train) & prompts(held_out)
    shuffled = list(examples)
    random.shuffle(shuffled)
    assert prompts(split(shuffled, fraction, seed)[1]) == prompts(held_out)


def test_fraction_is_met_on_many_prompts_and_the_seed_matters():
    examples = [example(row, f"question {row}") for row in range(2000)]
    first, second = split(examples, 0.1, 0)[1], split(examples, 0.1, 1)[1]
    assert 150 < len(first) < 250
    assert first != second
    assert split(examples, 0.0, 0)[1] == []
