"""The list of runs, and metrics.jsonl while it grows."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.errors import InterruptedRun
from arriero.runs import Metrics, Record, forget, listed, registered, state_of


def record(directory: Path, **more) -> Record:
    return Record(directory=directory, data="rows.json", **more)


def test_a_record_comes_back_as_it_was_saved_the_newest_first(home, tmp_path):
    assert listed() == []
    first = record(tmp_path / "甄嬛", model="tiny", system="Be “Killa”.", options={"epochs": 2.0}, started=1.0)
    second = record(tmp_path / "b", workers=2, started=2.0)
    first.save()
    second.save()
    assert listed() == [second, first]
    forget(second)
    assert listed() == [first]


def save_many(number: int) -> None:
    for _ in range(50):
        record(Path("/runs/same")).save()
        record(Path(f"/runs/{number}")).save()
        assert all(found.data == "rows.json" for found in listed())


def test_processes_that_register_at_once_lose_no_run_and_read_no_half_record(home, caplog):
    """Forked from a process with threads, and ended by SIGTERM, they hung once under coverage."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(save_many, range(4))
        pool.close()
        pool.join()
    assert {found.name for found in listed()} == {"same", "0", "1", "2", "3"}
    assert caplog.text == ""


def test_what_is_no_record_is_logged_and_the_others_are_listed(home, tmp_path, caplog):
    record(tmp_path / "a").save()
    (home / "runs" / "odd").mkdir()
    (home / "runs" / "odd" / "run.json").write_text("{")
    assert [found.name for found in listed()] == ["a"]
    assert "odd/run.json is no record of a run" in caplog.text


def test_an_error_is_kept_until_the_run_is_tried_again(home, tmp_path):
    run = record(tmp_path / "run")
    with pytest.raises(MemoryError), registered(run):
        raise MemoryError("no hay")
    assert (state_of(run).name, state_of(run).error) == ("failed", "no hay")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InterruptedRun), registered(run):
        raise InterruptedRun("stopped")
    assert state_of(run).name == "stopped"
    shutil.rmtree(tmp_path / "run")
    assert state_of(run).name == "gone"


def test_a_run_that_cannot_be_recorded_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path / "file"))
    with registered(record(tmp_path / "run")):
        pass
    assert "this run will not be listed" in caplog.text


def line(step: int, seconds: float, **more) -> dict:
    return {"step": step, "total_steps": 40, "seconds": seconds, "loss": 1.0 / step, **more}


def test_the_time_left_is_that_of_the_pace_since_the_last_resume(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    assert (metrics.update(), metrics.step, metrics.total, metrics.seconds_left) == (False, 0, None, None)
    slow = [line(step, 100.0 * step) for step in range(1, 11)]
    fast = [line(step, 2.0 * (step - 10)) for step in range(11, 21)]
    metrics.file.write_text("".join(json.dumps(each) + "\n" for each in slow + fast))
    assert metrics.update()
    assert (metrics.step, metrics.total, metrics.seconds_left) == (20, 40, 40.0)
    assert metrics.curve("loss")[-1] == (20, 0.05)


@given(st.data())
def test_lines_are_read_once_each_however_they_arrive(tmp_path_factory, data):
    """Bytes arrive in pieces of any size; sometimes a resume drops the last lines and goes on differently."""
    metrics = Metrics(tmp_path_factory.mktemp("run") / "metrics.jsonl")
    written: list[dict] = []
    for turn in range(data.draw(st.integers(1, 4))):
        written = written[: data.draw(st.integers(0, len(written)))]
        kept = "".join(json.dumps(each) + "\n" for each in written).encode()
        metrics.file.write_bytes(kept)
        new = [line(len(written) + 1 + index, float(turn)) for index in range(data.draw(st.integers(0, 5)))]
        text = "".join(json.dumps(each) + "\n" for each in new).encode()
        for cut in sorted({*data.draw(st.lists(st.integers(0, len(text)), max_size=3)), len(text)}):
            metrics.file.write_bytes(kept + text[:cut])
            if data.draw(st.booleans()):
                metrics.update()
        written += new
    metrics.update()
    assert metrics.lines == written
