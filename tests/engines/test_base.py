"""Generation, detokenizer and stop filter: the parts every engine shares."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.engines import Generation
from arriero.engines.detokenizer import Detokenizer
from arriero.engines.stopping import StopFilter
from arriero.errors import EngineError
from tests.conftest import build_tokenizer, ids_of

TOKENIZER = build_tokenizer()


async def test_who_hands_ids_on_gets_all_that_are_there_at_once():
    generation = Generation(1)
    generation.push([5])
    generation.push([6, 7])
    batches = generation.batches()
    assert await anext(batches) == [5, 6, 7]
    generation.push([8])
    generation.finish("stop")
    assert [batch async for batch in batches] == [[8]]


def test_readers_in_threads_and_on_a_loop_see_every_id():
    generation = Generation(1)
    seen: list[list[int]] = []
    threads = [threading.Thread(target=lambda: seen.append(list(generation))) for _ in range(3)]

    async def read() -> list[int]:
        return [token async for token in generation]

    threads.append(threading.Thread(target=lambda: seen.append(asyncio.run(read()))))
    for thread in threads:
        thread.start()
    for token in range(500):
        generation.push([token])
    generation.finish("stop")
    for thread in threads:
        thread.join(30)
    assert seen == [list(range(500))] * 4


def test_a_failure_reaches_the_reader_after_what_was_generated():
    generation = Generation(1)
    generation.push([7])
    generation.fail(RuntimeError("boom"))
    stream = iter(generation)
    assert next(stream) == 7
    with pytest.raises(EngineError, match="the engine failed: boom"):
        next(stream)


def test_the_first_finish_reason_stays():
    generation = Generation(1)
    generation.finish("stop")
    generation.finish("cancelled")
    assert generation.finish_reason == "stop"


def test_what_comes_after_the_end_changes_nothing():
    """A failure after the end once reached readers of a whole answer."""
    whole, failed = Generation(1), Generation(1)
    whole.push([7])
    whole.finish("stop")
    whole.fail(EngineError("too late"))
    whole.push([8])
    assert (list(whole), whole.finish_reason, whole.completion_tokens) == ([7], "stop", 1)
    failed.fail(EngineError("first"))
    failed.finish("stop")
    failed.fail(EngineError("second"))
    assert failed.finish_reason is None
    with pytest.raises(EngineError, match="first"):
        list(failed)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("end", [lambda made: made.finish("stop"), lambda made: made.fail(ValueError("x"))])
def test_the_end_is_told_once(early, end):
    generation, told = Generation(1), []
    if early:
        generation.when_done(lambda: told.append(1))
        generation.push([1])
        assert told == []
    end(generation)
    if not early:
        generation.when_done(lambda: told.append(1))
    end(generation)
    assert told == [1]


def test_an_engine_survives_a_reader_whose_loop_is_gone():
    generation = Generation(1)

    async def start() -> None:
        stream = generation.__aiter__()
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        generation.push([1])
        assert await task == 1

    asyncio.run(start())
    generation.push([2])
    generation.finish("stop")
    assert list(generation) == [1, 2]


characters = st.text(st.sampled_from("ab é骆驼🦙👩‍🚀🇧🇴\n�"), max_size=20)


@given(characters)
def test_joined_pieces_equal_the_decode_of_all_ids(text):
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in ids_of(text)]
    assert "".join(pieces) + detokenizer.flush() == TOKENIZER.decode(ids_of(text)) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces), "a character was cut in two"


@given(st.lists(st.integers(0, 261), max_size=30))
def test_broken_bytes_and_special_tokens_lose_nothing(ids):
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(st.text("abX", max_size=25), st.lists(st.text("abX", min_size=1, max_size=4), max_size=3), st.data())
def test_text_is_cut_at_the_first_stop_string_wherever_it_is_split(text, stop, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    made = StopFilter(stop)
    shown = "".join(made.push(piece) for piece in pieces) + made.flush()
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    assert made.stopped == bool(ends)
    if ends:  # the stop string that is complete first wins; of several that end there, the one that began first
        first = min(ends)
        assert shown == text[: min(first - len(s) for s in stop if text[:first].endswith(s))]
    else:
        assert shown == text
