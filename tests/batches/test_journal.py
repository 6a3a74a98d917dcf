"""The journal: whatever a killed process leaves of it is gone on from, and nothing is answered twice or lost."""

from __future__ import annotations

import json
import resource

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.batches import Requests, RowResponse, answer_all, resumed
from arriero.errors import ArrieroError, UsageError


def written(file, count, **body):
    """A file of so many requests."""
    lines = [
        {"custom_id": f"row-{n}", "method": "POST", "url": "/v1/completions", "body": {"prompt": str(n), **body}}
        for n in range(count)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def echo(asked, fail=()):
    """Answers with the prompt; those in `fail` with 400."""

    async def ask(url, body):
        asked.append(body["prompt"])
        return RowResponse(400 if body["prompt"] in fail else 200, f"req_{len(asked)}", {"said": body["prompt"]})

    return ask


async def run(requests, output, ask, at_once=4):
    journal = resumed(output, requests)
    try:
        await answer_all(requests, journal, ask, at_once=at_once)
        journal.finish(output)
    finally:
        journal.close()
    return journal


async def test_answers_are_in_the_order_of_the_requests_whatever_order_they_came_in(tmp_path):
    requests = Requests(written(tmp_path / "in.jsonl", 20))
    output, asked = tmp_path / "out.jsonl", []
    journal = resumed(output, requests)
    for row in reversed(requests.rows[10:]):
        response = {"status_code": 200, "request_id": "r", "body": {"said": "\ud800"}}
        journal.append({"id": row.id, "custom_id": row.custom_id, "response": response, "error": None})
    journal.close()
    journal = await run(requests, output, echo(asked, fail={"3"}))
    assert sorted(asked, key=int) == [str(n) for n in range(10)]
    assert [line["custom_id"] for line in lines_of(output)] == [row.custom_id for row in requests.rows]
    assert journal.failed == {"row-3"}
    assert [path.name for path in tmp_path.iterdir()].count("out.jsonl.partial") == 0


@given(st.data())
async def test_a_journal_cut_at_any_byte_is_gone_on_from(tmp_path_factory, data):
    """A killed process's last line may lack its end: it was taken for another run's, or stayed in the file."""
    directory = tmp_path_factory.mktemp("cut")
    requests = Requests(written(directory / "in.jsonl", 5))
    whole = await run(requests, directory / "whole.jsonl", echo([]))
    content = (directory / "whole.jsonl").read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    (directory / "out.jsonl.partial").write_bytes(content[:cut])
    asked = []
    await run(requests, directory / "out.jsonl", echo(asked))
    assert len(asked) == 5 - content[:cut].count(b"\n")
    assert [line["id"] for line in lines_of(directory / "out.jsonl")] == [row.id for row in whole.rows]


async def test_a_finished_output_is_left_alone_and_one_with_new_requests_gone_on_from(tmp_path):
    output, asked = tmp_path / "out.jsonl", []
    await run(Requests(written(tmp_path / "in.jsonl", 3)), output, echo([]))
    before = output.stat()
    await run(Requests(tmp_path / "in.jsonl"), output, echo(asked))
    assert (asked, output.stat().st_mtime_ns, output.stat().st_ino) == ([], before.st_mtime_ns, before.st_ino)
    await run(Requests(written(tmp_path / "in.jsonl", 5)), output, echo(asked))
    assert sorted(asked) == ["3", "4"]
    assert len(lines_of(output)) == 5


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.partial"])
@pytest.mark.parametrize("other", ["salt", "text"])
async def test_an_output_of_another_run_is_refused_and_stays(tmp_path, name, other):
    requests = Requests(written(tmp_path / "in.jsonl", 3))
    await run(requests, tmp_path / "first.jsonl", echo([]))
    (tmp_path / name).write_bytes((tmp_path / "first.jsonl").read_bytes() if other == "salt" else b"my notes\n")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match="of another run"):
        resumed(tmp_path / "out.jsonl", Requests(tmp_path / "in.jsonl", salt="another model"))
    assert (tmp_path / name).read_bytes() == before


async def test_a_full_disk_ends_the_run_with_a_word_and_the_next_goes_on(tmp_path):
    """The rest of a line that did not fit stayed in the file, and the next line was written behind it."""
    requests = Requests(written(tmp_path / "in.jsonl", 40))
    output, asked = tmp_path / "out.jsonl", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as if the disk had no more room
    try:
        with pytest.raises(ArrieroError, match=r"cannot be written: .*; \d+ answers are kept"):
            await run(requests, output, echo(asked))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = len(lines_of(tmp_path / "out.jsonl.partial"))
    assert 0 < kept < 40
    asked.clear()
    await run(requests, output, echo(asked))
    assert len(asked) == 40 - kept
    assert len(lines_of(output)) == 40


async def test_what_asking_raises_ends_the_run_and_nothing_is_lost(tmp_path):
    requests = Requests(written(tmp_path / "in.jsonl", 10))
    good, asked = echo([]), []

    async def ask(url, body):
        if body["prompt"] == "6":
            raise RuntimeError("gone")
        return await good(url, body)

    with pytest.raises(RuntimeError, match="gone"):
        await run(requests, tmp_path / "out.jsonl", ask, at_once=1)
    await run(requests, tmp_path / "out.jsonl", echo(asked), at_once=1)
    assert asked == ["6", "7", "8", "9"]


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    journal = resumed(tmp_path / "out.jsonl", Requests(written(tmp_path / "in.jsonl", 3)))
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
