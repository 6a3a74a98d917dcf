"""Which texts are computed together, and what becomes of those that nobody waits for any more."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.embeddings.batching import BUDGET, Batcher, Job, next_batch
from arriero.errors import EngineError
from tests.embeddings.scripted import ScriptedComputer, vector

LENGTHS = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), max_size=5)


@given(LENGTHS, st.integers(1, 100))
def test_every_text_is_in_one_batch_within_the_budget_and_requests_take_turns(requests, budget):
    jobs = [Job([[1] * length for length in lengths]) for lengths in requests]
    waiting, seen = deque(jobs), []
    while batch := next_batch(waiting, budget):
        longest = max(len(job.texts[index]) for job, index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
        seen += batch
    assert sorted((jobs.index(job), index) for job, index in seen) == [
        (number, index) for number, lengths in enumerate(requests) for index in range(len(lengths))
    ]
    turns = [jobs.index(job) for job, _ in seen]
    rounds = [[n for n, job in enumerate(jobs) if len(job.texts) > turn] for turn in range(12)]
    position = 0
    for expected in rounds:
        assert sorted(turns[position : position + len(expected)]) == expected
        position += len(expected)


@pytest.fixture
def held():
    """A batcher whose computer has begun a batch and waits."""
    computer = ScriptedComputer()
    batcher = Batcher(lambda: computer)
    first = batcher.submit([[7]])
    assert computer.computing.wait(30)
    yield batcher, computer, first
    batcher.close()


def test_what_comes_meanwhile_is_computed_together(held):
    batcher, computer, first = held
    others = [batcher.submit([[n], [n, n]]) for n in range(5)]
    computer.go.set()
    for number, other in enumerate(others):
        np.testing.assert_array_equal(other.result(30), [vector([number]), vector([number, number])])
    np.testing.assert_array_equal(first.result(30), [vector([7])])
    assert [len(batch) for batch in computer.batches] == [1, 10]


def test_one_with_thousands_holds_up_another_by_a_batch(held):
    batcher, computer, _ = held
    length = BUDGET // 4
    batcher.submit([[1] * length] * 1000)
    other = batcher.submit([[2] * length])
    computer.go.set()
    other.result(30)
    assert computer.batches[1] == [[1] * length, [2] * length, [1] * length, [1] * length]


def test_what_was_cancelled_is_not_computed(held):
    batcher, computer, first = held
    gone, wanted = batcher.submit([[8]]), batcher.submit([[9]])
    assert gone.cancel()
    assert first.cancel(), "also what is being computed"
    computer.go.set()
    wanted.result(30)
    assert computer.batches == [[[7]], [[9]]]


def test_what_is_left_when_it_ends_fails(held):
    batcher, _, first = held
    later = batcher.submit([[8]])
    batcher.close()
    for future in (first, later, batcher.submit([[9]])):
        with pytest.raises(EngineError, match="the embedder is closed"):
            future.result(30)


def test_a_failure_is_told_to_its_batch_and_the_next_one_has_another_computer():
    made = []

    def start():
        made.append(ScriptedComputer())
        made[-1].go.set()
        if len(made) == 1:
            made[-1].killed.set()
        return made[-1]

    batcher = Batcher(start)
    with pytest.raises(EngineError, match="killed"):
        batcher.submit([[1]]).result(30)
    np.testing.assert_array_equal(batcher.submit([[2]]).result(30), [vector([2])])
    assert len(made) == 2
    batcher.close()


def test_what_keeps_it_from_starting_is_told():
    def start():
        raise EngineError("no room")

    batcher = Batcher(start)
    for future in (batcher.started, batcher.submit([[1]])):
        with pytest.raises(EngineError, match="no room"):
            future.result(30)
    batcher.close()
